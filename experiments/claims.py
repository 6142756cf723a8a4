"""The paper's claims, one by one, on any network and any labelled photographs.

    python -m experiments.claims --network photos --images photos.csv --out runs/claims
    python -m experiments.claims --network mini_vgg_bn --scenes 24 --out runs/claims-mini

The settings are those of `experiments.paper`: algorithm 1 as printed, and `highlight`, which asks
for what the paper's figures show, each with 64 pixels at 100 % and with 32 at 20 %; and [16]'s
method in two corners. Only images that the network has right count, with random targets; verdicts
are those of the PNG. `OUT/table.md` has each claim with its numbers: rates with Wilson's intervals,
differences of rates with Newcombe's, means and medians with the bootstrap's. Run it again to go on.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.paper.study import OF_16, SETTINGS
from experiments.real import Cell, add_images, attack, images_of, right
from gcpatch.attacks.step import Losses
from gcpatch.cli.inputs import load_network
from gcpatch.errors import UserError
from gcpatch.evaluation.intervals import Estimate, bootstrap, paired_difference, rate

Record = dict[str, Any]
VARIANTS = {"printed": "as printed", "shown": "`highlight`"}
LOSSES = {"cross_entropy": "Cross-entropy", "explanation": "The Grad-CAM loss"}
HEAT = 0.1  # the least share of the heat that makes a patch hot


def cells(steps: int) -> list[Cell]:
    """The paper's settings, none with more steps than asked."""
    return [
        Cell(name, patch, replace(how, steps=min(steps, how.steps) if name in OF_16 else steps))
        for name, (patch, how) in SETTINGS.items()
    ]


def records_of(cell: Cell, records: list[Record], out: Path) -> dict[str, Record]:
    """The records that count, by image, each with the `first` of its losses."""
    with np.load(out / cell.name / "histories.npz") as histories:
        return {
            name: record
            | {"first": {term: float(histories[f"{name}/{term}"][0]) for term in Losses._fields}}
            for name, record in right(records).items()
        }


class Pair:
    """The images of two settings: 64 pixels and 32, or top right and top left."""

    def __init__(self, first: dict[str, Record], second: dict[str, Record]):
        names = [name for name in first if name in second]
        self.both = [[side[name] for name in names] for side in (first, second)]

    def rates(self, holds: Callable[[Record], bool]) -> str:
        """How often something holds in each, and by how much less often in the second."""
        first, second = (np.array([holds(record) for record in side]) for side in self.both)
        each = ", ".join(f"{flags.mean():.0%}" for flags in (first, second))
        return f"{each}: {percent(paired_difference(first, second), signed=True)}"

    def medians(self, value: Callable[[Record], float], unit: str = "") -> str:
        """The median in each, and of the differences."""
        first, second = (np.array([value(record) for record in side]) for side in self.both)
        found = bootstrap(second - first, np.median)
        each = ", ".join(f"{np.median(values):.3g}{unit}" for values in (first, second))
        return f"{each}: {found.value:+.3g} [{found.low:.3g}, {found.high:.3g}]"


def percent(found: Estimate, signed: bool = False) -> str:
    """As 42 % [23, 64]."""
    return (
        f"{found.value:{'+' if signed else ''}.0%} [{100 * found.low:.0f}, {100 * found.high:.0f}]"
    )


def share(records: dict[str, Record], holds: Callable[[Record], bool]) -> str:
    """How often something holds."""
    return percent(rate(sum(map(holds, records.values())), len(records)))


def mean(records: dict[str, Record], key: str) -> str:
    """The mean of a share."""
    return percent(bootstrap(np.array([record[key] for record in records.values()], float)))


def ends(term: str, first: dict[str, Record], second: dict[str, Record]) -> str:
    """A loss of the best patch, in two settings."""
    return Pair(first, second).medians(lambda record: record["loss"][term])


def fallen(term: str) -> Callable[[Record], bool]:
    """Whether a loss is lower at the end than at the start."""
    return lambda record: record["loss"][term] < record["first"][term]


def rows(found: dict[str, dict[str, Record]]) -> Iterator[tuple[str, ...]]:
    """Each claim, and what was found in each variant of the method."""

    def line(claim: str, tell: Callable[[dict, dict], str]) -> tuple[str, ...]:
        return claim, *(tell(found[f"{name}-64"], found[f"{name}-32"]) for name in VARIANTS)

    yield line("64 pixels at 100 % fool the label", lambda big, _: share(big, fooled))
    yield line(
        "... and leave the patch alone hot: its share of the target's heat, the maximum on it",
        lambda big, _: f"{mean(big, 'energy_adversarial')}; {share(big, pointed)}",
    )
    yield line(
        "32 pixels at 20 % fool the label less often (64, 32: difference)",
        lambda big, small: Pair(big, small).rates(fooled),
    )
    yield line(
        "... make the patch hot: its share of the heat; at least 10 % in",
        lambda _, small: f"{mean(small, 'energy_adversarial')}; {share(small, hot)}",
    )
    yield line(
        "... and are less visible (PSNR in dB, medians; 64, 32: difference)",
        lambda big, small: Pair(big, small).medians(lambda record: record["psnr"]),
    )
    for term, name in LOSSES.items():
        higher = partial(ends, term)
        yield line(
            f"{name} ends higher for 32 pixels at 20 % (medians; 64, 32: difference)", higher
        )
    yield line(
        "64 pixels bring cross-entropy down, and the Grad-CAM loss",
        lambda big, _: "; ".join(share(big, fallen(t)) for t in LOSSES),
    )
    corners = Pair(found["right"], found["left"])
    shares = corners.medians(lambda record: 100 * record["energy_adversarial"], " %")
    yield "[16]'s method: the patch's share of the heat (medians; top right, top left)", shares, "-"
    yield "... the maximum on the patch (top right, top left)", corners.rates(pointed), "-"


def fooled(record: Record) -> bool:
    """Whether the PNG is taken for the target."""
    return bool(record["fooled_class"])


def pointed(record: Record) -> bool:
    """Whether the target's map has its maximum on the patch."""
    return bool(record["pointing_adversarial"])


def hot(record: Record) -> bool:
    """Whether the patch has a part of the target's heat."""
    return bool(record["energy_adversarial"] >= HEAT)


def table(name: str, found: dict[str, dict[str, Record]]) -> Iterator[str]:
    """The table as Markdown."""
    counts = ", ".join(f"{key} {len(records)}" for key, records in found.items())
    yield f"# {name}\n\nImages that count: {counts}.\n"
    yield f"| the paper | {' | '.join(VARIANTS.values())} |\n|{'---|' * (1 + len(VARIANTS))}"
    for row in rows(found):
        yield f"| {' | '.join(row)} |"


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.claims",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--network", required=True, metavar="NAME", help="as `gcpatch attack --model` takes it")
    add_images(parser)
    add("--steps", type=int, default=300, help="the most steps of an image (300)")
    add("--batch", type=int, default=8, help="images at a time (8)")
    add("--out", type=Path, default=Path("runs/claims"), help="(runs/claims)")
    options = parser.parse_args()
    try:
        network = load_network(options.network, None)
        items = images_of(options, network)
        found = {
            cell.name: records_of(
                cell, attack(cell, network, items, options.batch, options.out), options.out
            )
            for cell in cells(options.steps)
        }
    except UserError as error:
        parser.exit(1, f"{error}\n")
    text = "\n".join(table(network.name, found)) + "\n"
    (options.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
