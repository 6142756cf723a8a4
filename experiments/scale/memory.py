"""Memory of a campaign as it goes on: flat.

    python -m experiments.scale.memory --scenes 5000

Attacks scenes for a few steps each, with all their files, and prints the process's resident
memory at every tenth of the way, and at 500 images and the end, which must be within 5 %.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.data import sources
from gcpatch.networks import checkpoints
from gcpatch.runs import campaign
from gcpatch.runs.journal import Journal
from gcpatch.runs.progress import ConsoleProgress, memory

EARLY, TOLERANCE = 500, 0.05


def main() -> int:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="mini_vgg")
    parser.add_argument("--scenes", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    network, patch = checkpoints.load(options.network), Patch()
    attack = Attack(objective="hide", steps=options.steps)
    items = sources.from_scenes(5, options.scenes, 224)
    tenth = max(1, options.scenes // 10)
    early = min(EARLY, tenth)
    seen: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as folder, ConsoleProgress(len(items)) as watch:
        journal = Journal(Path(folder) / "run", campaign.describe([network], patch, attack, {}))
        found = campaign.run(journal, network, items, patch, attack, watch=watch)
        for number, _ in enumerate(found, 1):
            if number in (early, options.scenes) or number % tenth == 0:
                seen[number] = memory()
    for number, used in seen.items():
        print(f"{number:6d} images: {used / 1e6:.1f} MB")
    growth = seen[options.scenes] / seen[early] - 1
    print(f"from {early} to {options.scenes} images: {growth:+.1%}")
    return growth > TOLERANCE


if __name__ == "__main__":
    sys.exit(main())
