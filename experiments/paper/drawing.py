"""What all figures share: grids of pictures with a colour bar, shares of heat, curves."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.paper.study import TITLES, Cell
from experiments.plots import ListedColormap, Normalize, Rectangle, ScalarMappable, plt
from gcpatch.report.figures import jet, percent

EXAMPLES = 3  # images in a figure: a run's first, nobody chooses
SHOWN = {  # what each setting is, above its pictures
    "printed-64": "algorithm 1 as printed",
    "shown-64": "objective highlight",
    "printed-32": "algorithm 1 as printed",
    "shown-32": "objective highlight",
    "left": "[16], top-left",
    "right": "[16], top-right",
}
JET = ListedColormap(jet(np.linspace(0, 1, 256)[None])[0] / 255, "the paper's jet")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito's, for all eyes
LINES = ("-", "--", "-.", ":")
DPI = 110


class Tile(NamedTuple):
    """A picture [h, w(, 3)], the lines below it, and a square to mark.

    `box` has its row, column and side as shares of the picture's side.
    """

    picture: np.ndarray
    caption: str = ""
    box: np.ndarray | None = None


def examples(cells: Sequence[Cell]) -> list[list[dict[str, Any]]]:
    """The first images that all cells have: of each the records, one a cell."""
    found = [{record["id"]: record for record in cell.records} for cell in cells]
    shared = [name for name in found[0] if all(name in records for records in found)]
    return [[records[name] for records in found] for name in shared[:EXAMPLES]]


def before(cell: Cell, record: dict[str, Any]) -> tuple[Tile, Tile]:
    """The clean image and its map: the class, and what the object has of the heat."""
    image, heat, *_ = cell.tiles(record)
    return Tile(image, _answer(record, "clean")), Tile(heat, _on_object(record, "clean"))


def after(cell: Cell, record: dict[str, Any]) -> tuple[Tile, Tile]:
    """The attacked image and its map, both with the patch's border."""
    *_, image, heat = cell.tiles(record)
    target, reached = record["target"], record["adversarial"]["id"] == record["target"]["id"]
    missed = "\nlost in the 8-bit PNG" if reached else f"\ntarget: {target['name']}"
    share = f"{percent(record['energy_adversarial'])} on the patch\n"
    return (
        Tile(image, _answer(record, "adversarial") + missed * (not record["fooled_class"])),
        Tile(heat, (share + _on_object(record, "adversarial")).strip()),
    )


def explained(tiles: tuple[Tile, Tile]) -> Tile:
    """The map of an image, with both captions."""
    image, heat = tiles
    return heat._replace(caption=f"{image.caption}\n{heat.caption}".strip())


def _answer(record: dict[str, Any], side: str) -> str:
    return f"{record[side]['name']} {percent(record[side]['probability'])}"


def _on_object(record: dict[str, Any], side: str) -> str:
    share = record.get(f"object_energy_{side}")
    return "" if share is None else f"{percent(share)} on the object"


def grid(
    path: Path,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Tile]],
    *,
    sides: Sequence[str] = (),
    bars: Sequence[tuple[str, Any]] | None = None,
) -> Path:
    """Rows of pictures under headings, beside them what their colours mean."""
    rows = rows or [[Tile(np.full((9, 9), 255), "no image has a result")] * len(columns)]
    bars = [("Grad-CAM, share of each map's maximum", JET)] if bars is None else bars
    captions = [
        ["\n".join(textwrap.fill(line, 26) for line in tile.caption.split("\n")) for tile in row]
        for row in rows
    ]
    lines = sum(max(text.count("\n") + bool(text) for text in row) for row in captions)
    figure, panels = plt.subplots(
        len(rows),
        len(columns),
        squeeze=False,
        layout="constrained",
        dpi=DPI,
        figsize=(1.85 * len(columns) + 0.8 * len(bars), 1.8 * len(rows) + 0.15 * lines + 0.7),
    )
    for r, row in enumerate(rows):
        for c, tile in enumerate(row):
            panel = panels[r][c]
            panel.imshow(tile.picture, cmap="gray", vmin=0, vmax=255)
            panel.set(xticks=[], yticks=[])
            if tile.box is not None:
                _mark(panel, tile.box * len(tile.picture))
            panel.set_xlabel(captions[r][c], fontsize=8)
            if r == 0:
                panel.set_title(columns[c], fontsize=9)
        if sides:
            panels[r][0].set_ylabel(textwrap.fill(sides[r], 26), fontsize=9)
    for label, colours in bars:
        scale = ScalarMappable(Normalize(0, 1), colours)
        figure.colorbar(
            scale, ax=panels, label=label, shrink=min(1, 2 / len(rows)), aspect=30, pad=0.01
        )
    return save(figure, title, path)


def _mark(panel: plt.Axes, box: np.ndarray) -> None:
    """White on black, to be seen on anything."""
    row, column, side = box
    for colour, width in (("black", 4.0), ("white", 1.5)):
        panel.add_patch(Rectangle((column, row), side, side, fill=False, ec=colour, lw=width))


def shares(path: Path, title: str, panels: Mapping[str, Sequence[Cell]]) -> Path:
    """Of every image the shares of the heat on patch and object; a panel for each setting."""
    figure, axes = plt.subplots(
        1,
        len(panels),
        sharey=True,
        squeeze=False,
        layout="constrained",
        dpi=DPI,
        figsize=(3.1 * len(panels) + 0.6, 3.9),
    )
    kinds = (
        ("energy_clean", "patch, clean image", "o", "#999999"),
        ("energy_adversarial", "patch, attacked", "o", COLOURS[0]),
        ("object_energy_adversarial", "object, attacked", "^", COLOURS[1]),
    )
    for axis, (heading, cells) in zip(axes[0], panels.items(), strict=True):
        for place, cell in enumerate(cells):
            for i, (key, label, marker, colour) in enumerate(kinds):
                values = [100 * r[key] for r in cell.records if r.get(key) is not None]
                if values:
                    x = place + (i - 1) / 4
                    axis.plot(
                        [x] * len(values),
                        values,
                        marker,
                        color=colour,
                        alpha=0.55,
                        ms=5,
                        label=label if place == 0 else None,
                    )
                    axis.hlines(
                        np.mean(values),
                        x - 0.11,
                        x + 0.11,
                        color="black",
                        lw=1.6,
                        label="mean" if place == i == 0 else None,
                    )
        names = [cell.title.replace(" ", "\n") for cell in cells]
        axis.set_xticks(range(len(cells)), names, fontsize=8)
        axis.set_title(heading, fontsize=9)
        axis.set_ylim(-3, 103)
        axis.grid(axis="y", alpha=0.3)
    axes[0][0].set_ylabel("share of the target's Grad-CAM (%)")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return save(figure, title, path)


def curves(path: Path, title: str, panels: dict[str, dict[str, np.ndarray]]) -> Path:
    """Two rows of two panels; a column shares its scale, so that its panels can be compared."""
    figure, axes = plt.subplots(
        2, 2, sharex=True, sharey="col", layout="constrained", dpi=DPI, figsize=(9, 6)
    )
    for axis, (heading, lines) in zip(axes.flat, panels.items(), strict=True):
        for name, values in lines.items():
            i = TITLES.index(name)
            axis.plot(range(1, len(values) + 1), values, LINES[i], color=COLOURS[i], label=name)
        axis.set_title(heading, fontsize=9)
        axis.grid(alpha=0.3)
        axis.tick_params(labelbottom=True, labelleft=True)
        axis.set(xscale="log", xlabel="step", ylabel=heading.split(": ")[1].replace(" (", "\n("))
    axes[0][1].legend(fontsize=8, frameon=False)
    return save(figure, title, path)


def save(figure: plt.Figure, title: str, path: Path) -> Path:
    """Writes the figure under its title and closes it."""
    figure.suptitle(title, fontsize=11)
    figure.savefig(path)
    plt.close(figure)
    return path
