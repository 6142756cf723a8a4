"""32 pixels at a fifth: what is possible at all?

    python -m experiments.small_patch --network photos --images photos.csv --out runs/small
    python -m experiments.small_patch --network mini_vgg --scenes 24 --out runs/small-mini

With a ratio of 0.2 each pixel under the patch is confined to an interval, from 0.8 of its value to
that and 0.2 more, so that all patches are a box. Several ways to search that box for the class
alone, 2,000 steps each, ending as soon as the target is clearly the top class: what none of them
finds is hardly there. `OUT/table.md` has each strategy's rate, and of any of them, image by image.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.real import Cell, Records, add_images, attack, images_of, right
from gcpatch.attacks.objectives import OBJECTIVES, Objective
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.cli.inputs import load_network
from gcpatch.errors import UserError
from gcpatch.evaluation.intervals import Estimate, rate
from gcpatch.losses import Evidence

PATCH = Patch(32, 0.2)
CLEARLY = 0.01  # in probability; the PNG's eight bits move it by some 0.001


def margin(evidence: Evidence) -> Float[Array, ""]:
    """The best other logit less the target's (Carlini and Wagner, 2017)."""
    others = evidence.logits.at[evidence.target].set(-jnp.inf)
    return others.max() - evidence.logits[evidence.target]


def not_clearly(evidence: Evidence) -> Float[Array, ""]:
    """What the target lacks to be the top class by so much that eight bits do not undo it."""
    odds = jax.nn.softmax(evidence.logits)
    rival = odds.at[evidence.target].set(0).max()
    return jnp.maximum(rival + CLEARLY - odds[evidence.target], 0)


LIKELIEST = Objective(OBJECTIVES["classify"].loss, not_clearly)
WIDEST = Objective(margin, not_clearly)


def cells(steps: int) -> list[Cell]:
    """The strategies."""

    def cell(name: str, **settings) -> Cell:
        return Cell(name, PATCH, Attack(steps=steps, confidence=0.0, **settings))

    return [
        cell("cross-entropy-adam", objective=LIKELIEST, ce_gate=False),
        cell("margin-adam", objective=WIDEST, ce_weight=0.0),
        cell("margin-adam-random", objective=WIDEST, ce_weight=0.0, init="random"),
        cell("margin-sign", objective=WIDEST, ce_weight=0.0, optimizer="sign"),
    ]


def table(runs: dict[str, Records]) -> Iterator[str]:
    """Each strategy's rate, and that of any of them, as Markdown."""
    found = {name: right(records) for name, records in runs.items()}
    yield "| strategy | images | target is the top class |"
    yield "|---|---|---|"
    for name, records in found.items():
        yield _row(name, [record["fooled_class"] for record in records.values()])
    some = next(iter(found.values()))
    best = [any(records[i]["fooled_class"] for records in found.values()) for i in some]
    yield _row("any of them", best)


def _row(name: str, flags: list[bool]) -> str:
    share: Estimate = rate(sum(flags), len(flags))
    return f"| {name} | {len(flags)} | {share.value:.0%} [{share.low:.0%}, {share.high:.0%}] |"


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.small_patch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--network", required=True, metavar="NAME")
    add_images(parser)
    parser.add_argument("--steps", type=int, default=2000, help="of each strategy (2000)")
    parser.add_argument("--batch", type=int, default=8, help="images at a time (8)")
    parser.add_argument("--out", type=Path, default=Path("runs/small"), help="(runs/small)")
    options = parser.parse_args()
    try:
        network = load_network(options.network, None)
        items = images_of(options, network)
        runs = {
            cell.name: attack(cell, network, items, options.batch, options.out)
            for cell in cells(options.steps)
        }
    except UserError as error:
        parser.exit(1, f"{error}\n")
    text = "\n".join(table(runs)) + "\n"
    (options.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
