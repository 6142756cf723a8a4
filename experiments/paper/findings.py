"""What an experiment found: numbers from records, and whether they bear out the paper's claim."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.paper.study import Cell, Study, command
from gcpatch.attacks.objectives import HIGHLIGHTED
from gcpatch.report.export import write_export
from gcpatch.report.figures import percent
from gcpatch.report.summary import number

PART = 0.1  # the least share of the heat that counts as a part of it


class Check(NamedTuple):
    """One thing that a claim says, as found, and whether it is as claimed."""

    found: str
    holds: bool


class Finding(NamedTuple):
    """An experiment's outcome.

    Attributes:
        title: the paper's number and what it shows.
        claim: what the paper says.
        verdicts: sentences on whether it reproduces.
        pictures: PNG files.
        table: the CSV file behind them.
        rows: the numbers in short.
    """

    title: str
    claim: str
    verdicts: list[str]
    pictures: list[Path]
    table: Path
    rows: list[dict[str, str]]


def judge(checks: Iterable[Check | None], subject: str = "") -> str:
    """A sentence on what of a claim holds; checks that could not be made are left out."""
    made = [check for check in checks if check]
    parts = {holds: "; ".join(c.found for c in made if c.holds == holds) for holds in (True, False)}
    if not made:
        word = "Cannot be told"
    elif not parts[False]:
        word = f"Reproduces: {parts[True]}"
    elif not parts[True]:
        word = f"Does not reproduce: {parts[False]}"
    else:
        word = f"Reproduces in part: {parts[True]}. But: {parts[False]}"
    return f"{subject}{word}."


def values(cells: Sequence[Cell], key: str) -> list[float]:
    """Of all records that have the value."""
    return [v for c in cells for r in c.records if (v := number(r.get(key))) is not None]


def mean(cells: Sequence[Cell], key: str) -> float | None:
    """The mean of the values, None of none."""
    found = values(cells, key)
    return statistics.fmean(found) if found else None


def count(cells: Sequence[Cell], key: str) -> tuple[int, int]:
    """How many records say yes, and how many there are."""
    said = [record[key] for cell in cells for record in cell.records]
    return sum(said), len(said)


def labels(cells: Sequence[Cell]) -> Check:
    """Most images are taken for the target."""
    fooled, images = count(cells, "fooled_class")
    return Check(f"{fooled} of {images} images are taken for the target", fooled > images / 2)


def heat_on_patch(cells: Sequence[Cell], least: float = HIGHLIGHTED) -> Check:
    """At least so much of the heat is on the patch."""
    before, after = mean(cells, "energy_clean"), mean(cells, "energy_adversarial")
    found = f"the patch has {percent(after)} of the target's heat (clean {percent(before)})"
    return Check(found, after is not None and after >= least)


def peak_on_patch(cells: Sequence[Cell]) -> Check:
    """Most maps have their maximum on the patch."""
    points, images = count(cells, "pointing_adversarial")
    return Check(f"the map's maximum is on it in {points} of {images}", points > images / 2)


def heat_on_object(cells: Sequence[Cell], kept: bool) -> Check | None:
    """The object keeps a part of the heat, or loses it; None where nobody knows the object."""
    before, after = mean(cells, "object_energy_clean"), mean(cells, "object_energy_adversarial")
    if after is None:
        return None
    shares = values(cells, "object_energy_adversarial")
    keep = f"{sum(s >= PART for s in shares)} of {len(shares)} keep {100 * PART:.0f} % or more"
    found = f"the object has {percent(after)} (clean {percent(before)}), {keep}"
    return Check(found, (after >= PART) == kept)


def lit(cells: Sequence[Cell]) -> list[Check | None]:
    """What the paper's first case claims: the label falls, and the patch alone is hot."""
    return [labels(cells), heat_on_patch(cells), peak_on_patch(cells), heat_on_object(cells, False)]


def half_lit(cells: Sequence[Cell]) -> list[Check | None]:
    """What its second case claims: the label falls; patch and object are hot."""
    return [labels(cells), heat_on_patch(cells, PART), heat_on_object(cells, True)]


def rows(cells: Sequence[Cell]) -> list[dict[str, str]]:
    """A line of numbers for each cell."""

    def change(cell: Cell, key: str) -> str:
        return " → ".join(percent(mean([cell], f"{key}_{w}")) for w in ("clean", "adversarial"))

    def share(cell: Cell, key: str) -> str:
        return "{} of {}".format(*count([cell], key))

    return [
        {
            "network": cell.title,
            "setting": cell.setting,
            "images": f"{len(cell.records)}, {len(cell.errors)} failed",
            "taken for the target": share(cell, "fooled_class"),
            "maximum on the patch": share(cell, "pointing_adversarial"),
            "heat on the patch": change(cell, "energy"),
            "heat on the object": change(cell, "object_energy"),
            "PSNR": "–" if (psnr := mean([cell], "psnr")) is None else f"{psnr:.1f} dB",
        }
        for cell in cells
    ]


def write_records(path: Path, cells: Sequence[Cell]) -> Path:
    """The records behind a figure as CSV."""
    found: list[dict[str, Any]] = [
        {"network": cell.title, "setting": cell.setting} | record
        for cell in cells
        for record in cell.records
    ]
    write_export(found, path)
    return path


def main(doc: str | None, experiment: Callable[[Study], Finding]) -> None:
    """Runs one experiment from the command line and says what it found."""

    def work(study: Study) -> None:
        finding = experiment(study)
        print("\n".join([finding.title, *finding.verdicts, *map(str, finding.pictures)]))
        print(finding.table)

    command(doc or "", work)
