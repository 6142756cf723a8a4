"""How long the device waits for the host: reading, decoding, writing, and what comes between.

    python -m experiments.scale.idle FOLDER_OF_IMAGES

Runs a campaign of a full-size network with random weights and times what the device is given:
steps, and the clean image's evaluation when an image enters its slot. The rest is idle. On a CPU
the threads that read and write take their share of the same cores, so that the steps take longer;
the table also gives their pace without any other work.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import jax
import numpy as np

from gcpatch.attacks import slots
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.data import sources
from gcpatch.networks import checkpoints
from gcpatch.runs import campaign
from gcpatch.runs.journal import Journal


def timed(function, seconds: dict, name: str):
    """The function, whose time until its result is there is added up."""

    def call(*arguments, **options):
        in_progress = time.perf_counter()
        result = function(*arguments, **options)
        jax.block_until_ready(jax.tree.leaves(result))
        seconds[name] += time.perf_counter() - in_progress
        return result

    return call


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--network", default="vgg19_bn")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    network = checkpoints.load(options.network, "random")
    items = sources.find([options.images], 224, "stretch").items
    patch, attack = Patch(), Attack(objective="hide", steps=options.steps, learning_rate=1e-3)
    seconds: dict[str, float] = defaultdict(float)
    slots.advance = timed(slots.advance, seconds, "steps")
    slots.prepare = timed(slots.prepare, seconds, "clean images")
    slots._put = timed(slots._put, seconds, "clean images")
    taken: list[tuple[float, float]] = []  # the clock and the busy seconds at each chunk

    class Clock(campaign.Progress):
        def steps(self, count: int) -> None:
            taken.append((time.perf_counter(), sum(seconds.values())))

    with tempfile.TemporaryDirectory() as folder:
        described = campaign.describe([network], patch, attack, {})
        journal = Journal(Path(folder) / "run", described)
        found = campaign.run(
            journal, network, items, patch, attack, batch=options.batch, watch=Clock()
        )
        records = list(found)
    (in_progress, before), (ended, after) = taken[0], taken[-1]  # the first chunk compiles
    wall, busy = ended - in_progress, after - before
    pace = np.diff([clock for clock, _ in taken])
    print(f"{len(records)} images, {options.steps} steps each, {len(taken)} chunks")
    print(f"from the first chunk's end to the last's: {wall:.1f} s, the device busy {busy:.1f} s")
    print(f"idle: {1 - busy / wall:.2%}; a chunk {np.median(pace):.2f} s in the median")


if __name__ == "__main__":
    main()
