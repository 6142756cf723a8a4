"""The tables, computed from the records alone: a row for each cell, an interval for each number."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.beyond.cells import Cell, factorial, optimisers, paper, ratios
from experiments.beyond.images import Images
from gcpatch.attacks.objectives import HIDDEN
from gcpatch.evaluation.intervals import Estimate, Statistic, bootstrap

Runs = dict[Cell, Images]
Row = tuple[Cell, list[Estimate | None]]
SETTINGS = "network", "size", "ratio", "position", "objective", "optimizer", "rate"


class Column(NamedTuple):
    """A number of a table: what it is of an image, and how the images make it."""

    heading: str
    of: Callable[[Images], Any]
    form: str = ".0%"
    statistic: Statistic = np.mean

    def estimate(self, images: Images, less: Images | None = None) -> Estimate | None:
        """The number over those images that have it, or of their differences; None over none."""
        values = np.asarray(self.of(images))
        if less is not None:
            values = values.astype(float) - self.of(less)
        values = values[~np.isnan(values)]
        return bootstrap(values, self.statistic) if len(values) else None

    def text(self, found: Estimate | None, most: int) -> str:
        """The number and its interval; what is infinite is over the `most` steps of a cell."""
        if found is None:
            return "-"
        value, low, high = (
            f"> {most}" if np.isinf(number) else f"{number:{self.form}}" for number in found
        )
        return f"{value} [{low}, {high}]"


class Table(NamedTuple):
    """A table: its cells, given the networks, and its numbers, or what they have over `less`."""

    title: str
    cells: Callable[[Sequence[str]], list[Cell]]
    columns: Sequence[Column]
    less: Callable[[Cell], Cell] | None = None


def most_cells(networks: Sequence[str]) -> list[Cell]:
    """The first network's in full, then the paper's of the others."""
    return [*factorial(networks), *paper(networks[1:])]


def top_right(networks: Sequence[str]) -> list[Cell]:
    """Those of the first network's cells that have a twin at the top left."""
    return [cell for cell in factorial(networks) if cell.position == "top-right"]


RATES = (
    Column("class", lambda i: i.fooled),
    Column("map hidden", lambda i: i.hidden),
    Column("map highlighted", lambda i: i.highlighted),
    Column("class and hidden", lambda i: i.fooled & i.hidden),
    Column("class and highlighted", lambda i: i.fooled & i.highlighted),
)
GOAL = Column("steps to the goal", lambda i: i.goal, ".0f", np.median)
STEPS = (
    Column("goal met", lambda i: np.isfinite(i.goal)),
    GOAL,
    Column("steps to p = 1/2", lambda i: i.answered, ".0f", np.median),
)
STEALTH = Column("PSNR, dB", lambda i: i.psnr, ".1f"), Column("L-inf", lambda i: i.linf, ".2f")
ENERGY = (
    Column("clean", lambda i: i.target_before, ".1%"),
    Column("hidden already", lambda i: i.target_before <= HIDDEN),
    Column("attacked", lambda i: i.patch, ".1%"),
    Column("attacked, median", lambda i: i.patch, ".1%", np.median),
    Column("no heat at all", lambda i: np.isnan(i.patch)),
)
HEAT = (
    Column("object, clean", lambda i: i.object_before),
    Column("object, attacked", lambda i: i.object),
    Column("patch, clean", lambda i: i.patch_before),
    Column("patch, attacked", lambda i: i.patch),
    Column("elsewhere, clean", lambda i: 1 - i.object_before - i.patch_before),
    Column("elsewhere, attacked", lambda i: 1 - i.object - i.patch),
)
TABLES = {
    "success": Table("Success", most_cells, RATES),
    "positions": Table(
        "Top-right less top-left, scene by scene",
        top_right,
        [column._replace(form="+.1%") for column in RATES],
        lambda cell: cell._replace(position="top-left"),
    ),
    "steps": Table("Steps to success", most_cells, STEPS),
    "stealth": Table("The price of stealth", ratios, (*STEALTH, *RATES)),
    "energy": Table("Hidden and highlighted: the patch's share of the target's map", paper, ENERGY),
    "optimisers": Table("Optimisers and learning rates", optimisers, (*RATES, GOAL)),
    "heat": Table("Where the heat is", paper, HEAT),
}


def rows(table: Table, runs: Runs, networks: Sequence[str]) -> list[Row]:
    """The table's cells that there are, with an estimate for each column."""
    found = []
    for cell in table.cells(networks):
        pair = [cell, table.less(cell)] if table.less else [cell]
        if all(one in runs for one in pair):
            images = [runs[one] for one in pair]
            found.append((cell, [column.estimate(*images) for column in table.columns]))
    return found


def telling(found: list[Row]) -> list[str]:
    """The settings that are not the same in all rows."""
    return [name for name in SETTINGS if len({getattr(cell, name) for cell, _ in found}) > 1]


def markdown(table: Table, found: list[Row], most: int) -> list[str]:
    """The table, with the settings that tell its rows apart."""
    names = telling(found)
    head = [*names, *(column.heading for column in table.columns)]
    lines = [head, ["---"] * len(head)]
    for cell, numbers in found:
        texts = [
            column.text(number, most) for column, number in zip(table.columns, numbers, strict=True)
        ]
        lines.append([*(str(getattr(cell, name)) for name in names), *texts])
    return ["| " + " | ".join(line) + " |" for line in lines]


def write_csv(table: Table, found: list[Row], path: Path) -> None:
    """Three columns for each number: its value, and the ends of its interval."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        ends = ("", " low", " high")
        writer.writerow([*SETTINGS, *(c.heading + end for c in table.columns for end in ends)])
        for cell, numbers in found:
            values = [f"{x:.6g}" for number in numbers for x in number or (np.nan,) * 3]
            writer.writerow([*(getattr(cell, name) for name in SETTINGS), *values])
