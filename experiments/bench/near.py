"""The near field: what it saves, how true its gradients are, and what it costs in steps.

    python -m experiments.bench.near --networks mini_resnext
    python -m experiments.bench.near --networks photos --images photos.csv --success 8

Three tables in Markdown. Multiply-adds of a step (the trunk forward, and backward as much again),
of the whole image over those of what is followed, without and with refreshes as often as
`engine.choose_reach` has them. The cosine between the gradient of a step in the near field and the
exact one, along the path of exact attacks; the memory is so many steps old as it can get between
two refreshes. And steps until an exact look says that the goal is met, exact and near, image by
image from the same start; who does not get there counts with all its steps.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.work import trunk_work, with_looks
from gcpatch.attacks import engine, slots
from gcpatch.attacks.blending import paste
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.step import evaluate, init_state, make_problem, seen_of, step
from gcpatch.cli.inputs import load_network
from gcpatch.evaluation import success
from gcpatch.networks import NAMES, Network, random

MARGINS = range(1, 7)
AGES = (1, 5, 10, 20)  # most steps between two refreshes


def savings(network: Network, patch: Patch) -> list[str]:
    """A row: how many times fewer multiply-adds, exact and for each margin."""
    side, size = network.preprocessing.size, patch.size
    image, corner = jax.ShapeDtypeStruct((side, side, 3), "float32"), patch.corner(side, side)
    cells, (full, wide) = [], trunk_work(network, size)
    for reach in ("exact", *MARGINS):
        attack = Attack(reach=reach)
        found = engine.choose_reach(network, image, corner=corner, size=size, attack=attack)
        _, reached = trunk_work(network, size, found.margin)
        saved = full / with_looks(wide, reached, found.every)
        cells.append(
            f"{full / reached:.2f}" + (f" ({saved:.2f}, R = {found.every})" if found.every else "")
        )
    return [network.name, str(size), *cells]


def problems_of(
    network: Network, cases: Sequence[success.Case], patch: Patch, attack: Attack
) -> Iterator[Any]:
    """The problems of cases."""
    for number, (image, target) in enumerate(cases):
        place, key = patch.place(*image.shape[:2]), jax.random.key(number)
        yield make_problem(network, image, target, attack, placement=place, key=key)


def cosines(
    network: Network, cases: Sequence[success.Case], patch: Patch, attack: Attack, *, looks: int
) -> dict[int, list[float]]:
    """For each margin the mean cosine at each age, along the exact attacks of these images."""
    side = network.preprocessing.size
    reach = partial(
        engine.reach_of,
        network,
        jax.ShapeDtypeStruct((side, side, 3), "float32"),
        corner=patch.corner(side, side),
        size=patch.size,
    )

    @partial(jax.jit, static_argnames="program")
    def move(network, state, problem, program):
        forward = engine.forward_of(network, problem, None, program)
        return step(network, state, problem, attack, forward)[0]

    @partial(jax.jit, static_argnames="program")
    def gradient(network, tile, problem, program):
        forward = engine.forward_of(network, problem, None, program)
        return jax.grad(evaluate, argnums=1, has_aux=True)(network, tile, problem, attack, forward)[
            0
        ]

    found: dict[int, list[list[float]]] = {margin: [[] for _ in AGES] for margin in MARGINS}
    for problem in problems_of(network, cases, patch, attack):
        exact, state = reach(), init_state(network, problem, (patch.size,) * 2, attack)
        known = engine.remember(network, problem, exact)
        tiles: list[Any] = []
        while len(tiles) < AGES[-1] + looks * AGES[-1] // 2:
            tiles.append(seen_of(network, state, problem, attack)[0])
            state = move(network, state, known, exact.program)
            if state.best_shortfall == 0:
                break
        for now in range(min(AGES[-1], len(tiles)) - 1, len(tiles), AGES[-1] // 2):
            true = gradient(network, tiles[now], known, exact.program)
            for margin in MARGINS:
                placed = reach(margin=margin)
                for column, age in zip(found[margin], AGES, strict=True):
                    if now - age + 1 >= 0:
                        shown = paste(problem.image, tiles[now - age + 1], problem.corner)
                        cached = engine.remember(network, problem._replace(image=shown), placed)
                        near = gradient(network, tiles[now], cached, placed.program)
                        column.append(float(jnp.vdot(near, true) / _length(near) / _length(true)))
    return {
        margin: [float(np.mean(each)) if each else np.nan for each in columns]
        for margin, columns in found.items()
    }


def _length(gradient: Any) -> Any:
    return jnp.linalg.norm(gradient.ravel())


def steps_to_success(
    network: Network, cases: Sequence[success.Case], patch: Patch, attack: Attack, batch: int
) -> list[slots.Result]:
    """The attacks' results, in the order of the cases."""
    place = patch.place(*cases[0].image.shape[:2])
    problems = problems_of(network, cases, patch, attack)
    corner = slots.corner_of(place)
    found = slots.stream(network, problems, place.shape, attack, batch, corner=corner)
    return [result for _, result in sorted(found, key=lambda pair: pair[0])]


def rows_of_steps(
    network: Network,
    cases: Sequence[success.Case],
    patch: Patch,
    attack: Attack,
    reaches: Sequence[str | int],
    batch: int,
) -> Iterator[list[str]]:
    """A row for each reach, the first of which is what the others are compared with."""
    first: list[slots.Result] = []
    for reach in reaches:
        results = steps_to_success(network, cases, patch, replace(attack, reach=reach), batch)
        first = first or results
        steps = np.array([each.steps for each in results])
        less = np.array([one.steps - each.steps for one, each in zip(first, results, strict=True)])
        margin, every = results[0].reach.margin, results[0].reach.every
        yield [
            network.name,
            attack.objective.name,
            f"{reach}" + (f" (m = {margin}, R = {every})" if every else ""),
            f"{sum(each.converged for each in results)} of {len(results)}",
            f"{np.median(steps):.0f}",
            f"{steps.mean():.0f}",
            f"{np.median(less):+.0f}",
            f"{np.mean([each.reach.refreshes for each in results]):.1f}",
            " ".join(f"{each.steps}{'' if each.converged else '*'}" for each in results),
        ]


def _print(head: Sequence[str], rows: Iterator[list[str]]) -> None:
    print("\n| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.near",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--networks", default="mini_resnext", metavar="A,B,...", help="(mini_resnext)")
    add("--images", metavar="MANIFEST", help="photographs; scenes if not given")
    add("--size", type=int, default=64, help="the patch's side in pixels (64)")
    add("--objectives", default="hide", metavar="A,B,...", help="(hide)")
    add("--steps", type=int, default=200, help="the most steps (200)")
    add("--batch", type=int, default=4, help="images at a time (4)")
    add("--looks", type=int, default=4, help="places on a path where gradients are compared (4)")
    add("--paths", type=int, default=2, help="images whose paths are taken (2); 0: no cosines")
    add("--success", type=int, default=4, help="images attacked to success (4); 0: none")
    add("--reaches", default="exact,near", metavar="A,B,...", help="(exact,near)")
    add("--random", action="store_true", help="random weights, and multiply-adds alone")
    options = parser.parse_args()
    patch = Patch(options.size)
    names = options.networks.split(",")
    networks = [
        random(n) if options.random and n in NAMES else load_network(n, None) for n in names
    ]
    _print(
        ("network", "patch", "exact", *(f"m = {margin}" for margin in MARGINS)),
        (savings(network, patch) for network in networks),
    )
    if options.random:
        return
    attacks = [
        Attack(objective=each, steps=options.steps) for each in options.objectives.split(",")
    ]
    paths = [options.images] if options.images else None
    cases = {
        network.name: success.cases_of(
            network, paths, count=max(options.paths, options.success), seed=0
        )
        for network in networks
    }
    if options.paths:
        _print(
            ("network", "objective", "margin", *(f"R = {age}" for age in AGES)),
            (
                [network.name, attack.objective.name, str(margin), *(f"{each:.3f}" for each in row)]
                for network in networks
                for attack in attacks
                for margin, row in cosines(
                    network,
                    cases[network.name][: options.paths],
                    patch,
                    attack,
                    looks=options.looks,
                ).items()
            ),
        )
    if options.success:
        reaches = [int(r) if r.isdecimal() else r for r in options.reaches.split(",")]
        head = (
            "network",
            "objective",
            "reach",
            "goal met",
            "steps, median",
            "mean",
            "fewer, median",
            "refreshes",
            "steps (* not met)",
        )
        _print(
            head,
            (
                row
                for network in networks
                for attack in attacks
                for row in rows_of_steps(
                    network,
                    cases[network.name][: options.success],
                    patch,
                    attack,
                    reaches,
                    options.batch,
                )
            ),
        )


if __name__ == "__main__":
    main()
