"""The tables as charts: colours of Okabe and Ito, which colour-blind readers tell apart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.beyond.tables import Row, Table
from experiments.plots import PercentFormatter, plt
from gcpatch.evaluation.intervals import Estimate

LOOKS = {"classify": ("#e69f00", "s"), "highlight": ("#0072b2", "o"), "hide": ("#009e73", "^")}
NAMES = {"size": "{} px", "ratio": "ratio {:g}", "rate": "rate {:g}"}


def dots(table: Table, found: list[Row], settings: Sequence[str], path: Path) -> None:
    """A panel for each share, a line for each setting, a dot and its interval an objective."""
    columns = [n for n, column in enumerate(table.columns) if column.form.endswith("%")]
    labels = [
        ", ".join(
            NAMES.get(name, "{}").format(getattr(cell, name))
            for name in settings
            if name != "objective"
        )
        for cell, _ in found
    ]
    lines = list(dict.fromkeys(labels))
    figure, panels = plt.subplots(
        1, len(columns), figsize=(2.6 + 1.9 * len(columns), 1.5 + 0.36 * len(lines)), sharey=True
    )
    for panel, column in zip(panels, columns, strict=True):
        for n, objective in enumerate(LOOKS):
            pairs = [
                (numbers[column], Estimate(*[lines.index(label) + 0.22 * (n - 1)] * 3))
                for label, (cell, numbers) in zip(labels, found, strict=True)
                if cell.objective == objective
            ]
            _plot(panel, pairs, objective, "none")
        panel.set_title(table.columns[column].heading, fontsize=9)
        panel.set_xlim(0, 1)
        panel.xaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    panels[0].set_yticks(range(len(lines)), lines)
    panels[0].set_ylim(len(lines) - 0.5, -0.5)
    _finish(figure, f"{table.title}, %, with 95 % intervals", path)


def curves(table: Table, found: list[Row], path: Path) -> None:
    """The shares over what the change costs: two rows of panels, for PSNR and for L-inf."""
    costs, shares = (0, 1), range(2, len(table.columns))
    figure, panels = plt.subplots(
        len(costs), len(shares), figsize=(2.3 * len(shares), 5.2), sharey=True, sharex="row"
    )
    for row, cost in zip(panels, costs, strict=True):
        for panel, share in zip(row, shares, strict=True):
            for objective in LOOKS:
                pairs = [(n[cost], n[share]) for cell, n in found if cell.objective == objective]
                _plot(panel, pairs, objective, "-")
            panel.set_xlabel(table.columns[cost].heading, fontsize=8)
            panel.set_ylim(0, 1)
            panel.yaxis.set_major_formatter(PercentFormatter(1))
    for panel, share in zip(panels[0], shares, strict=True):
        panel.set_title(table.columns[share].heading, fontsize=9)
    ratios = ", ".join(f"{ratio:g}" for ratio in dict.fromkeys(cell.ratio for cell, _ in found))
    _finish(figure, f"{table.title}: ratios {ratios}, with 95 % intervals", path)


def _plot(
    panel, pairs: Sequence[tuple[Estimate | None, Estimate | None]], objective: str, line: str
) -> None:
    """The pairs that there are, as points with their intervals on both axes."""
    whole = [(x, y) for x, y in pairs if x and y]
    if not whole:
        return
    values, lows, highs = np.moveaxis(np.array(whole), -1, 0)
    below, above = (values - lows).T, (highs - values).T
    colour, marker = LOOKS[objective]
    panel.errorbar(
        *values.T,
        xerr=(below[0], above[0]),
        yerr=(below[1], above[1]),
        color=colour,
        marker=marker,
        markersize=4,
        linestyle=line,
        linewidth=1.2,
        label=objective,
        clip_on=False,
    )


def _finish(figure, title: str, path: Path) -> None:
    for panel in figure.axes:
        panel.tick_params(labelsize=8)
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        ncols=3,
        loc="upper left",
        frameon=False,
        fontsize=9,
        title=title,
        title_fontsize=9,
        alignment="left",
    )
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.55 / figure.get_figheight()))
    figure.savefig(path, dpi=100)
    plt.close(figure)
