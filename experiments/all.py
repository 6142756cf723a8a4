"""Every figure and table of the paper in one go, and one page with all of them.

    python -m experiments.all
    python -m experiments.all --networks full --images photos/ --out runs/paper-full

The first runs the bundled minis on scenes; the second torchvision's networks, converted before
with `gcpatch convert`, on your images. Run it again to go on where it stopped.
"""

import shlex
import sys

from experiments.paper import (
    clean_maps,
    corners,
    experiment1,
    experiment2,
    experiment3,
    experiment4,
    four_networks,
    layers,
    loss_curves,
    page,
    placement,
)
from experiments.paper.study import Study, command
from gcpatch.networks import checkpoints

EXPERIMENTS = (
    clean_maps,
    placement,
    layers,
    experiment1,
    experiment2,
    experiment3,
    experiment4,
    corners,
    four_networks,
    loss_curves,
)


def make(study: Study) -> None:
    """Runs all experiments and writes the page."""
    for name in study.networks.values():
        checkpoints.load(name)  # a missing one shows now and not hours later
    found = []
    for experiment in EXPERIMENTS:
        again = shlex.join(["python", "-m", experiment.__name__, *sys.argv[1:]])
        found.append((again, experiment.experiment(study)))
    print(page.write(study, found))


if __name__ == "__main__":
    command(__doc__ or "", make)
