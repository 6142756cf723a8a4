"""Each loss does what it says: its own goal on the clean image, in a plain attack, and with it.

    python -m experiments.losses
    python -m experiments.losses --region image --steps 40

64 scenes held out from training, random targets. "Plain" is the cross-entropy alone (`classify`).
Everything is measured on the image rounded to 8 bits; the intervals are 95 %, by bootstrap over the
scenes. Prints the table as Markdown, a line as soon as it is known.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gcpatch import losses
from gcpatch.attacks.blending import cut
from gcpatch.attacks.regions import Bounded, Patch, Region
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.slots import corner_of, stream
from gcpatch.attacks.step import Problem, evaluate, make_problem
from gcpatch.data import scenes
from gcpatch.evaluation.intervals import bootstrap
from gcpatch.losses import Evidence, Loss
from gcpatch.networks import MINIS, Network, checkpoints

SEED, SIDE = 3, 224  # training sees scenes of seed 1, its accuracy is measured on those of seed 2
REGIONS: dict[str, Region] = {"patch": Patch(64), "image": Bounded(8)}
CE_WEIGHT = 1.0  # for all: the losses are of different sizes, and the class must count beside each
RED, WHITE, BLACK = (0.8, 0.1, 0.1), (0.9, 0.9, 0.9), (0.1, 0.1, 0.1)


class Row(NamedTuple):
    """A loss, and its goal as a quantity in words and as a function."""

    loss: str
    objective: Loss
    goal: str
    quantity: Loss


def rows(cells: tuple[int, ...], region: str) -> list[Row]:
    """What is attacked: losses on maps, and with a patch also those on it."""
    height, width = cells
    quarter = jnp.zeros(cells).at[: (height + 1) // 2, width // 2 :].set(1)
    cross = jnp.maximum(jnp.eye(height, width), jnp.eye(height, width)[::-1])
    inks = losses.printability(jnp.asarray([RED, WHITE, BLACK]))

    def same(name: str, objective: Loss, goal: str) -> Row:
        return Row(name, objective, goal, objective)

    def on_the_patch(evidence: Evidence):
        return losses.energy(evidence.heat, evidence.coverage)

    of_a_patch = [
        Row("hide", losses.hide, "share of the heat on the patch: low", on_the_patch),
        Row("highlight", losses.highlight, "share of the heat on the patch: high", on_the_patch),
    ]
    of_a_tile = [
        Row(
            "20 * total_variation",
            lambda evidence: 20 * losses.total_variation(evidence),
            "mean step between pixels: low",
            losses.total_variation,
        ),
        Row(
            "20 * printability(red, white, black)",
            lambda evidence: 20 * inks(evidence),
            "non-printability score: low",
            inks,
        ),
    ]  # a weight, for each of the 4,096 pixels has but a small share of them
    of_a_map = [
        same(
            "location(top right quarter)",
            losses.location(quarter),
            "share of the heat elsewhere: low",
        ),
        Row(
            "centre-of-mass",
            losses.centre_of_mass,
            "way of the centre, in sides: high",
            lambda evidence: -losses.centre_of_mass(evidence),
        ),
        same("top-k", losses.top_k(10), "share of the heat in the 10 hottest clean cells: low"),
        same("target_map(a cross)", losses.target_map(cross), "square error to the cross: low"),
        Row(
            "target_cosine(a cross)",
            losses.target_cosine(cross),
            "cosine with the cross: high",
            lambda evidence: 1 - losses.target_cosine(cross)(evidence),
        ),
        same("keep", losses.keep, "square error to the clean map: low"),
        same("swap", losses.swap, "square error to the other's clean map: low"),
        Row(
            "rank-correlation",
            losses.rank_correlation,
            "Spearman with the clean map: low",
            partial(losses.rank_correlation, temperature=1e-6),
        ),
    ]
    return of_a_patch + of_a_map + of_a_tile if region == "patch" else of_a_map


def fooled(evidence: Evidence):
    """1 where the class is the target, else 0."""
    return (evidence.logits.argmax() == evidence.target).astype(evidence.heat.dtype)


@partial(jax.jit, static_argnames="quantities")
def measure(
    network: Network, tiles: jax.Array, problems: Problem, quantities: tuple[Loss, ...]
) -> list[jax.Array]:
    """Each quantity of each image with its tile, by the attack's own evaluation."""

    def one(case):
        tile, problem = case
        found = [evaluate(network, tile, problem, Attack(objective=of))[1][0] for of in quantities]
        return [losses.explanation for losses in found]

    return jax.lax.map(one, (tiles, problems), batch_size=8)


class Bench:
    """A network and scenes with random targets, to be attacked in a region."""

    def __init__(self, network: Network, region: Region, count: int):
        batch = scenes.draw_batch(SEED, count, size=SIDE)
        images = jnp.round(batch.image * 255) / 255
        others = np.random.default_rng(SEED).integers(1, len(network.categories), count)
        top = np.asarray(network(images)).argmax(-1)
        targets = (top + others) % len(network.categories)
        self.network, self.place = network, region.place(*images.shape[1:3])
        self.problems = [
            make_problem(
                network, image, target, Attack(), placement=self.place, key=jax.random.key(SEED)
            )
            for image, target in zip(images, targets.tolist(), strict=True)
        ]

    def clean(self) -> jax.Array:
        """The pixels of the region, `[n, rows, columns, 3]`."""
        return jnp.stack([cut(p.image, p.corner, self.place.shape) for p in self.problems])

    def attacked(self, objective: Loss, steps: int) -> jax.Array:
        """The same after the attack, in 8 bits."""
        attack = Attack(objective=objective, steps=steps, ce_weight=CE_WEIGHT)
        done = dict(
            stream(
                self.network, self.problems, self.place.shape, attack, corner=corner_of(self.place)
            )
        )
        tiles = jnp.stack([done[i].tile for i in range(len(self.problems))])
        return jnp.round(tiles * 255) / 255

    def measure(self, tiles: jax.Array, quantities: Sequence[Loss]) -> list[jax.Array]:
        """Each quantity of each image."""
        problems = jax.tree.map(lambda *leaves: jnp.stack(leaves), *self.problems)
        return measure(self.network, tiles, problems, tuple(quantities))


def text(values: jax.Array, form: str = ".3f") -> str:
    """A mean and its interval."""
    found = np.asarray(values)
    value, low, high = bootstrap(found if found.dtype == bool else found.astype(float))
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def table(bench: Bench, chosen: Sequence[Row], steps: int, line: Callable[..., None]) -> None:
    """Gives `line` the cells of one line after the other."""
    quantities = [*(row.quantity for row in chosen), fooled]
    before = bench.measure(bench.clean(), quantities)
    plain = bench.measure(bench.attacked(losses.classify, steps), quantities)
    line("loss", "its goal", "clean image", "plain attack", "with the loss", "class")
    line(*["---"] * 6)
    line("`classify`", "-", "-", "-", "-", text(plain[-1] > 0, ".0%"))
    for i, row in enumerate(chosen):
        after = bench.measure(bench.attacked(row.objective, steps), quantities)
        numbers = (text(values[i]) for values in (before, plain, after))
        line(f"`{row.loss}`", row.goal, *numbers, text(after[-1] > 0, ".0%"))


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=MINIS, default="mini_vgg_bn", help="(mini_vgg_bn)")
    parser.add_argument(
        "--region", choices=REGIONS, default="patch", help="64 px, or 8/255 (patch)"
    )
    parser.add_argument("--scenes", type=int, default=64, help="how many (64)")
    parser.add_argument("--steps", type=int, default=100, help="the most steps (100)")
    options = parser.parse_args()
    network = checkpoints.load(options.network)
    bench = Bench(network, REGIONS[options.region], options.scenes)
    chosen = rows(bench.problems[0].clean_heat.shape, options.region)
    table(
        bench, chosen, options.steps, lambda *cells: print("|", " | ".join(cells), "|", flush=True)
    )


if __name__ == "__main__":
    main()
