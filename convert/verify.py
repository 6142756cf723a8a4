"""The cross-check that `gcpatch verify` runs: networks, or a finished run, against PyTorch."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from convert import ConvertError, reference
from convert.comparison import (
    LOSSES_ON,
    TOLERANCES,
    Row,
    classifier,
    compare,
    first_difference,
    tensor,
)
from convert.torchvision import from_torch, load_weights, to_torch
from gcpatch import checkpoints
from gcpatch.attacks import OPTIMIZERS
from gcpatch.errors import UserError
from gcpatch.images import find_images, read_image
from gcpatch.networks import MINIS, NAMES, PAPER, Network, create, random
from gcpatch.patches import Patch
from gcpatch.report import read_records
from gcpatch.scenes import draw_batch

SIZE = 224
IMAGES, MINI_IMAGES, RANDOM_IMAGES = 12, 200, 4
STEPS, MINI_STEPS = 10, 30
ENERGY_TOLERANCE = 1e-3


def names_of(names: Sequence[str], weights: str | None) -> list[str]:
    """The networks to verify, `all` written out, once it is sure that there are such weights.

    Raises:
        UserError: a network does not exist, or is not converted and no weights are named.
    """
    found = [name for given in names for name in ((*PAPER, *MINIS) if given == "all" else (given,))]
    for name in found:
        if name not in NAMES:
            create(name)  # raises, listing the names that there are
    ready = found if weights else (*checkpoints.installed(), *MINIS)
    missing = [name for name in dict.fromkeys(found) if name not in ready]
    if missing:
        raise UserError(
            f"not converted yet: {', '.join(missing)}; run `gcpatch convert NAME` for each, "
            "or name the weights: `--weights random` works without any"
        )
    return list(dict.fromkeys(found))


def pair(name: str, weights: str | None) -> tuple[Network, Mapping[str, Any]]:
    """A network, and the state_dict that PyTorch shall compute with.

    Args:
        name: one of `gcpatch.networks.NAMES`.
        weights: torchvision's name of the weights, a state_dict's file, or "random"; None for
            the converted checkpoint, or the bundled one, beside the weights that it was made of.

    Raises:
        ConvertError: there are no such weights, or they are not this network's.
        CheckpointError: it is not converted.
    """
    if weights not in (None, "random"):
        found = load_weights(name, weights)
        return from_torch(found.state_dict, name, found.categories), found.state_dict
    network = checkpoints.load(name, weights)
    source = "" if weights else checkpoints.installed().get(name, {}).get("source", "")
    if source.startswith("torchvision "):
        return network, load_weights(name, source.split()[1]).state_dict
    if " sha256 " in source:
        file = source.split(" sha256 ")[0]
        raise ConvertError(f"{name} was converted from {file}: verify it with `--weights {file}`")
    return network, to_torch(network)


def pictures(name: str, folder: Path | None) -> UInt8[np.ndarray, "n size size 3"]:
    """A folder's images, or scenes and random pixels."""
    if folder is not None:
        return np.stack([read_image(path, SIZE) for path in find_images([folder])])
    count = (MINI_IMAGES if name in MINIS else IMAGES) - RANDOM_IMAGES
    scenes = np.rint(np.asarray(draw_batch(0, count, size=SIZE).image) * 255).astype(np.uint8)
    shape = (RANDOM_IMAGES, SIZE, SIZE, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return np.concatenate([scenes[:1], noise, scenes[1:]])


def verify(
    name: str, *, weights: str | None = None, folder: Path | None = None,
    precision: str = "float32", steps: int | None = None,
) -> list[Row]:  # fmt: skip
    """Compares one network with PyTorch; for the arguments see `pair`, `pictures`, `compare`."""
    if precision not in TOLERANCES:
        choices = ", ".join(TOLERANCES)
        raise UserError(f"there is no precision {precision!r}; choose one of {choices}")
    network, state_dict = pair(name, weights)
    images = pictures(name, folder)
    steps = (MINI_STEPS if name in MINIS else STEPS) if steps is None else steps
    tasks = len(images) + min(LOSSES_ON, len(images)) + (len(OPTIMIZERS) if steps else 0)
    with tqdm(total=tasks, desc=name, unit=" comparisons", dynamic_ncols=True) as bar:
        return compare(network, state_dict, images, precision, steps, bar.update)


class Verdict(NamedTuple):
    """What PyTorch says of a run: rows, the images that it saw, those of them that differ."""

    rows: list[Row]
    images: int
    differing: list[str]


def verify_run(folder: Path, weights: str | None = None) -> Verdict:
    """Whether PyTorch gives a run's adversarial.png the labels and energies that it recorded.

    Args:
        folder: the run's.
        weights: of its networks, as for `pair`; those at hand that have the run's digest if None.

    Raises:
        UserError: it is not the folder of a run, or its weights are not at hand.
    """
    records = [record for record in read_records(folder) if record["error"] is None]
    try:
        settings = json.loads((folder / "run.json").read_text())["settings"]
        patch = Patch(**settings["patch"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder / 'run.json'} does not hold a run's settings") from None
    rows, differing = [], []
    for name in dict.fromkeys(record["model"] for record in records):
        network = _network_of(settings, name, weights)
        model = classifier(network, to_torch(network))
        labels, energies = 0, 0.0
        mine = [record for record in records if record["model"] == name]
        for record in tqdm(mine, desc=name, unit=" images"):
            other_label, off = _look_again(model, folder, record, patch)
            labels, energies = labels + other_label, max(energies, off)
            if other_label or not off <= ENERGY_TOLERANCE:
                differing.append(record["id"])
        share = labels / len(mine)
        rows += [
            Row(name, "label of adversarial.png", labels, share, 0.0, labels == 0),
            Row(name, "energy of adversarial.png", energies, energies, ENERGY_TOLERANCE, energies <= ENERGY_TOLERANCE),
        ]
    return Verdict(rows, len(records), differing)
