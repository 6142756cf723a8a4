"""What it saves that a slot takes the next image when its own is done.

    python -m experiments.scale.refill

Attacks the same scenes, every other one with its runner-up for a target (easy) and the rest with
the least likely class (hard), twice in one process: with slots that are refilled, and in batches
that wait for their slowest image. Image-steps spent are those that the device computes, also for
images that are done and for empty slots.
"""

import argparse
import itertools
import time
from collections.abc import Iterator

import jax
import numpy as np

import gcpatch
from experiments.scale.survival import SEED, SIDE
from gcpatch.attacks import slots
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.step import Problem, make_problem
from gcpatch.data import labels, scenes
from gcpatch.explainers import cam

HEAD = ("slots", "images", "fooled", "image-steps needed", "spent", "spent per image", "images/s")


def draw(network, count: int, patch: Patch, attack: Attack) -> list[Problem]:
    """Scenes with easy and hard targets in turn."""
    problems = []
    place = patch.place(SIDE, SIDE)
    for index, rule in zip(range(count), itertools.cycle(("runner-up", "least-likely"))):
        image = scenes.draw_batch(SEED, 1, size=SIDE, start=index).image[0]
        logits = np.asarray(cam.classify_and_explain(network, image)[0])
        wanted = labels.choose(rule, logits, network.categories, (SEED, index))
        problems.append(
            make_problem(network, image, wanted, attack, placement=place, key=jax.random.key(index))
        )
    return problems


def row(name: str, batches: list[list[Problem]], network, patch, attack, slots_count: int):
    """Attacks one batch of problems after the other; a line of the table."""
    corner = patch.corner(SIDE, SIDE)
    spent, outcomes = 0, []

    def chunk(_: int) -> None:
        nonlocal spent
        spent += slots_count * min(slots.CHUNK, attack.steps)

    in_progress = time.monotonic()
    for batch in batches:
        found: Iterator = slots.stream(
            network, batch, (patch.size, patch.size), attack, slots_count, chunk, corner=corner
        )
        outcomes += [outcome for _, outcome in found]
    seconds, needed = time.monotonic() - in_progress, sum(outcome.steps for outcome in outcomes)
    fooled = np.mean([outcome.converged for outcome in outcomes])
    return (
        name,
        str(len(outcomes)),
        f"{fooled:.0%}",
        f"{needed:,}",
        f"{spent:,}",
        f"{spent / len(outcomes):.0f}",
        f"{len(outcomes) / seconds:.2f}",
    )


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="mini_vgg")
    parser.add_argument("--scenes", type=int, default=128)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    network, patch = gcpatch.load(options.network), Patch()
    attack = Attack(objective="hide", steps=options.steps)
    problems = draw(network, options.scenes, patch, attack)
    waiting = [problems[i : i + options.batch] for i in range(0, len(problems), options.batch)]
    cases = {"refilled": [problems], "wait for the slowest": waiting}
    row("", waiting[:1], network, patch, attack, options.batch)  # compiles
    for line in (HEAD, ["---"] * len(HEAD)):
        print("| " + " | ".join(line) + " |")
    for name, batches in cases.items():
        line = row(name, batches, network, patch, attack, options.batch)
        print("| " + " | ".join(line) + " |", flush=True)


if __name__ == "__main__":
    main()
