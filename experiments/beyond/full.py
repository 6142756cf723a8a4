"""The paper's networks, trained on scenes first: for a machine with a large accelerator."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import train
from gcpatch.data.scenes import CATEGORIES
from gcpatch.errors import UserError
from gcpatch.networks import Network, checkpoints, create, fill

ENOUGH = 0.98  # of the held-out scenes
ROUNDS = 3  # of a recipe's steps, before we give up


class Recipe(NamedTuple):
    """How a network is trained; see `experiments.train`. None has been tried at full size yet."""

    steps: int
    windowed: int
    rate: float
    scenes: int = 20_000
    batch: int = 64


RECIPES = {
    "vgg19_bn": Recipe(3000, 2000, 1e-3),
    "vgg19": Recipe(6000, 4000, 1e-4),
    "wide_resnet101_2": Recipe(3000, 2000, 1e-3),
    "resnext101_32x8d": Recipe(3000, 2000, 1e-3),
}


def trained(name: str, out: Path) -> Network:
    """The network of the checkpoint in `out`; trains it, in as many rounds as it takes, if none.

    Raises:
        UserError: its accuracy stays under `ENOUGH`.
    """
    folder, training = out / "networks" / name, out / "training"
    if folder.exists():
        return checkpoints.read(folder, name)
    steps, windowed, rate, count, batch = RECIPES[name]
    for rounds in range(1, ROUNDS + 1):
        share = train.train(
            name, rounds * steps, rounds * windowed, 0, count, batch, rate, training
        )
        print(f"{name}: {share:.2%} of 2,000 held-out scenes after {rounds * steps} steps")
        if share >= ENOUGH:
            break
    else:
        raise UserError(
            f"{name} names {share:.2%} of the held-out scenes right, not {ENOUGH:.0%}: change its "
            f"recipe in experiments/beyond/full.py and delete {training / name}"
        )
    with np.load(training / f"{name}.npz") as archive:
        values = {key: archive[key].astype(np.float32) for key in archive}
    network = fill(create(name, CATEGORIES), values)
    checkpoints.save(network, folder, f"scenes; names {share:.2%} of 2,000 held-out ones right")
    return network
