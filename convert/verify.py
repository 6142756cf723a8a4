"""The cross-check that `gcpatch verify` runs: networks, or a finished run, against PyTorch."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from convert import ConvertError, reference
from convert.comparison import LOSSES_ON, TOLERANCES, Row, classifier, compare, tensor
from convert.operators import torch
from convert.torchvision import convert, load_weights, to_torch
from convert.weights import PRE
from gcpatch.attacks import regions
from gcpatch.attacks.regions import Patch, Region
from gcpatch.attacks.settings import OPTIMIZERS
from gcpatch.data import sources
from gcpatch.data.scenes import draw_batch
from gcpatch.errors import UserError
from gcpatch.networks import MINIS, NAMES, PAPER, Network, checkpoints, random
from gcpatch.networks.manifests import read_manifest
from gcpatch.report.records import read_records

IMAGES, MINI_IMAGES, RANDOM_IMAGES = 12, 200, 4
STEPS, MINI_STEPS = 10, 30
OF_LARGE = ("sign", "adam")  # optimisers; the minis' cover all, at a hundredth of the cost
ENERGY_TOLERANCE = 1e-3
MANY = 100  # images, each a second of two cores for a mini and ten for a large network


def names_of(names: Sequence[str], weights: str | None) -> list[str]:
    """The networks to verify, `all` written out, once it is sure that there are such weights.

    Raises:
        UserError: a network does not exist, or is not converted and no weights are named.
    """
    found = [name for given in names for name in ((*PAPER, *MINIS) if given == "all" else (given,))]
    for name in found:
        if name not in NAMES and checkpoints.found(name) is None:
            checkpoints.load(name)  # raises, listing the names that there are
    ready = found if weights else MINIS
    missing = [
        name
        for name in dict.fromkeys(found)
        if name not in ready and checkpoints.found(name) is None
    ]
    if missing:
        raise UserError(
            f"not converted yet: {', '.join(missing)}; run `gcpatch convert NAME` for each, "
            "or name the weights: `--weights random` works without any"
        )
    return list(dict.fromkeys(found))


def pair(name: str, weights: str | None) -> tuple[Network, Mapping[str, Any]]:
    """A network, and the state_dict that PyTorch shall compute with.

    Args:
        name: one of `gcpatch.networks.NAMES`, an alias, or a checkpoint's folder.
        weights: torchvision's name of the weights, a file, a checkpoint's folder, or "random";
            None for the converted checkpoint, or the bundled one, beside the weights that it was
            made of: torchvision's, or else those written back.

    Raises:
        ConvertError: there are no such weights, or they are not this network's.
        CheckpointError: it is not converted.
    """
    if weights not in (None, "random") and not Path(weights).expanduser().is_dir():
        found = convert(name, weights)
        return found.network, found.state_dict
    network = checkpoints.load(name, weights)
    folder = None if weights else checkpoints.found(name)
    source = read_manifest(folder)["source"] if folder else ""
    if source.startswith(PRE):
        return network, load_weights(network.architecture, source.split()[1]).state_dict
    if " sha256 " in source:
        file = source.split(" sha256 ")[0]
        raise ConvertError(f"{name} was converted from {file}: verify it with `--weights {file}`")
    return network, to_torch(network)


def announce(folder: Path, limit: int | None, note: Callable[[str], None]) -> None:
    """Tells `note` what a folder's images take, where they are many."""
    count = len(sources.find([folder], 1, "stretch").items[:limit])
    if count > MANY:
        minutes = count / 60
        note(
            f"{count:,} images take some {minutes:,.0f} minutes for each mini and "
            f"{10 * minutes:,.0f} for each large network on two cores; --limit N takes the first N"
        )


def pictures(
    network: Network, folder: Path | None, limit: int | None
) -> UInt8[np.ndarray, "n size size 3"]:
    """A folder's images (the first `limit`), or scenes and random pixels, of the network's size."""
    size, name = network.preprocessing.size, network.architecture
    if folder is not None:
        found = sources.find([folder], size, "stretch")
        return np.stack([item.read().pixels for item in found.items[:limit]])
    count = (MINI_IMAGES if name in MINIS else IMAGES) - RANDOM_IMAGES
    scenes = np.rint(np.asarray(draw_batch(0, count, size=size).image) * 255).astype(np.uint8)
    shape = (RANDOM_IMAGES, size, size, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return np.concatenate([scenes[:1], noise, scenes[1:]])


def verify(
    name: str,
    *,
    weights: str | None = None,
    folder: Path | None = None,
    limit: int | None = None,
    precision: str = "float32",
    steps: int | None = None,
) -> list[Row]:
    """Compares one network with PyTorch; for the arguments see `pair`, `pictures`, `compare`."""
    if precision not in TOLERANCES:
        choices = ", ".join(TOLERANCES)
        raise UserError(f"there is no precision {precision!r}; choose one of {choices}")
    if steps is not None and steps < 0:
        raise UserError(f"steps is {steps}; it must be at least 0")
    network, state_dict = pair(name, weights)
    images = pictures(network, folder, limit)
    mini = network.architecture in MINIS
    steps = (MINI_STEPS if mini else STEPS) if steps is None else steps
    optimizers = tuple(OPTIMIZERS) if mini else OF_LARGE
    tasks = len(images) + min(LOSSES_ON, len(images)) + (len(optimizers) if steps else 0)
    with tqdm(total=tasks, desc=name, unit=" comparisons", dynamic_ncols=True, disable=None) as bar:
        return compare(network, state_dict, images, precision, steps, optimizers, bar.update)


class Verdict(NamedTuple):
    """What PyTorch says of a run: rows, how many images it saw, and which of them differ."""

    rows: list[Row]
    images: int
    differing: list[str]


def verify_run(folder: Path, weights: str | None = None) -> Verdict:
    """Whether PyTorch gives a run's adversarial.png the labels and energies that it recorded.

    Args:
        folder: the run's.
        weights: of its network, as for `pair`; if None, those at hand that have the run's digest.

    Raises:
        UserError: it is not the folder of a run, or its weights are not at hand.
    """
    records = [r for r in read_records(folder) if not r.get("error") and not r.get("skipped")]
    settings, region = _settings(folder)
    try:
        return _verdict(folder, records, settings, region, weights)
    except (KeyError, TypeError):
        raise UserError(
            f"{folder} lacks what an attack records of an image or its weights"
        ) from None


def _verdict(
    folder: Path,
    records: list[dict[str, Any]],
    settings: dict[str, Any],
    region: Region,
    weights: str | None,
) -> Verdict:
    attack = {"layer": None, "explainer": "grad-cam"} | settings.get("attack", {})
    if (explainer := attack["explainer"]) != "grad-cam":
        raise UserError(
            f"the maps of {folder} are {explainer}'s; PyTorch's side of verify has grad-cam alone"
        )
    rows, differing = [], []
    for name in dict.fromkeys(record["model"] for record in records):
        mine = [record for record in records if record["model"] == name]
        network = _network_of(name, settings, weights)
        model = classifier(network, to_torch(network))
        model = replace(model, layer=network.resolve(attack["layer"]))
        wrong, errors = [], []
        for record in tqdm(mine, desc=name, unit=" images", dynamic_ncols=True, disable=None):
            label, energy = _look(model, folder, record, region)
            wrong.append(label != record["png"]["id"])
            errors.append(abs(energy - record["energy_adversarial"]))
            if wrong[-1] or errors[-1] > ENERGY_TOLERANCE:
                differing.append(record["id"])
        rows += [
            _row(name, "label of adversarial.png, share that differs", np.mean(wrong), 0.0),
            _row(name, "energy of adversarial.png", max(errors), ENERGY_TOLERANCE),
        ]
    return Verdict(rows, len(records), differing)


def _row(name: str, quantity: str, error: float, tolerance: float) -> Row:
    return Row(name, quantity, float(error), float(error), tolerance, bool(error <= tolerance))


def _settings(folder: Path) -> tuple[dict[str, Any], Region]:
    try:
        settings = json.loads((folder / "run.json").read_text())["settings"]
        return settings, regions.region(settings["patch"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / 'run.json'} does not hold a run's settings") from None


def _network_of(name: str, settings: dict[str, Any], weights: str | None) -> Network:
    """The network whose weights have the digest that a run recorded."""
    for load in _sources(name, settings, weights):
        network = load()
        if checkpoints.digest(network) == settings["weights_digest"][name]:
            return network
    raise UserError(
        f"the run's weights of {name} are not at hand: convert them again, "
        "or name them with --weights"
    )


def _sources(
    name: str, settings: dict[str, Any], weights: str | None
) -> Iterator[Callable[[], Network]]:
    if weights not in (None, "random"):
        yield lambda: pair(name, weights)[0]
        return
    if weights is None and (name in MINIS or checkpoints.found(name) is not None):
        yield lambda: checkpoints.load(name)
    if name in NAMES:
        yield lambda: random(name, settings.get("seed", 0))


def _look(
    model: reference.Classifier, folder: Path, record: dict[str, Any], region: Region
) -> tuple[int, float]:
    """PyTorch's top class of an image's adversarial.png, and the patch's energy for the target."""
    path = folder / "images" / record["id"] / "adversarial.png"
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"), np.float32) / 255
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    _, logits, _, heat = reference.grad_cam(model, tensor(pixels), record["target"]["id"])
    covered = _covered(region, tuple(heat.shape), pixels.shape[:2])
    return int(logits.argmax()), float(reference.energy(heat, covered).detach())


def _covered(region: Region, cells: tuple[int, ...], size: tuple[int, int]) -> Any:
    """The share of each of a map's cells that a run's perturbation covers, by PyTorch."""
    if isinstance(region, Patch):
        return reference.coverage(cells, size, region.corner(*size), region.size)
    inside = torch.from_numpy(np.asarray(region.place(*size).ratio)[None, ..., 0] > 0).double()
    return torch.nn.functional.adaptive_avg_pool2d(inside, (cells[0], cells[1]))[0]
