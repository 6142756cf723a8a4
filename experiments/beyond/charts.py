"""The tables as charts: colours of Okabe and Ito, which colour-blind readers tell apart."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import PercentFormatter

from experiments.beyond.bootstrap import Estimate
from experiments.beyond.tables import Row, Table

LOOKS = {"classify": ("#e69f00", "s"), "highlight": ("#0072b2", "o"), "hide": ("#009e73", "^")}
NAMES = {"size": "{} px", "ratio": "ratio {:g}", "rate": "rate {:g}"}


def _reach(found: Sequence[Estimate]) -> np.ndarray:
    """How far the intervals reach below and above their values, `[2, n]`."""
    values, lows, highs = np.array(found).T
    return np.array([values - lows, highs - values])


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
        1, len(columns), figsize=(2.6 + 2.1 * len(columns), 1.5 + 0.36 * len(lines)), sharey=True
    )
    for panel, column in zip(panels, columns, strict=True):
        for shift, (objective, (colour, marker)) in zip((-0.22, 0, 0.22), LOOKS.items()):
            shown = [
                (lines.index(label) + shift, numbers[column])
                for label, (cell, numbers) in zip(labels, found, strict=True)
                if cell.objective == objective and numbers[column] is not None
            ]
            if shown:
                places, numbers = zip(*shown, strict=True)
                panel.errorbar(
                    [number.value for number in numbers], places, xerr=_reach(numbers),
                    fmt=marker, color=colour, markersize=4, linewidth=1.2, label=objective,
                    clip_on=False,
                )  # fmt: skip
        panel.set_title(table.columns[column].heading, fontsize=9)
        panel.set_xlim(0, 1)
        panel.xaxis.set_major_formatter(PercentFormatter(1, symbol=""))
        panel.tick_params(labelsize=8)
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    panels[0].set_yticks(range(len(lines)), lines)
    panels[0].set_ylim(len(lines) - 0.5, -0.5)
    _finish(figure, panels[0], "% of the scenes or of the map, with 95 % intervals", path)


def curves(table: Table, found: list[Row], path: Path) -> None:
    """The shares over what the change costs: two rows of panels, for PSNR and for L-inf."""
    costs, shares = (0, 1), range(2, len(table.columns))
    figure, panels = plt.subplots(
        len(costs), len(shares), figsize=(2.5 * len(shares), 5.2), sharey=True, sharex="row"
    )
    for row, cost in zip(panels, costs, strict=True):
        for panel, share in zip(row, shares, strict=True):
            for objective, (colour, marker) in LOOKS.items():
                kept = [
                    (numbers[cost], numbers[share])
                    for cell, numbers in found
                    if cell.objective == objective
                ]
                x, y = ([pair[n] for pair in kept] for n in (0, 1))
                panel.errorbar(
                    [number.value for number in x], [number.value for number in y],
                    xerr=_reach(x), yerr=_reach(y), color=colour, marker=marker, markersize=4,
                    linewidth=1.2, label=objective, clip_on=False,
                )  # fmt: skip
            panel.set_xlabel(table.columns[cost].heading, fontsize=8)
            panel.set_ylim(0, 1)
            panel.yaxis.set_major_formatter(PercentFormatter(1))
            panel.tick_params(labelsize=8)
            panel.grid(color="#dddddd", linewidth=0.6)
    for panel, share in zip(panels[0], shares, strict=True):
        panel.set_title(table.columns[share].heading, fontsize=9)
    ratios = ", ".join(f"{ratio:g}" for ratio in dict.fromkeys(cell.ratio for cell, _ in found))
    _finish(figure, panels[0][0], f"ratios {ratios}; with 95 % intervals", path)


def _finish(figure, panel, note: str, path: Path) -> None:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(
        handles, labels, ncols=3, loc="upper left", frameon=False, fontsize=9, title=note,
        title_fontsize=8, alignment="left",
    )  # fmt: skip
    height = figure.get_figheight()
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.5 / height))
    figure.savefig(path, dpi=100)
    plt.close(figure)
