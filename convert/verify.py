"""The cross-check that `gcpatch verify` runs: networks, or a finished run, against PyTorch."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from convert import ConvertError, reference, specs, torchvision
from convert.checking.checks import check
from convert.checking.comparison import LOSSES_ON, TOLERANCES, Row, classifier, compare, tensor
from convert.operators import torch
from convert.torchvision import load_weights, to_torch
from convert.tracing.graph import build
from convert.tracing.imported import Imported
from convert.weights import PRE
from gcpatch.attacks import regions
from gcpatch.attacks.regions import Patch, Region
from gcpatch.attacks.settings import OPTIMIZERS
from gcpatch.data import sources
from gcpatch.data.scenes import draw_batch
from gcpatch.errors import UserError
from gcpatch.networks import MINIS, NAMES, PAPER, SMALL, Network, checkpoints, factories, random
from gcpatch.networks.graph import ARCHITECTURE
from gcpatch.networks.manifests import read_manifest
from gcpatch.report.records import images_of, read_records

IMAGES, MINI_IMAGES, RANDOM_IMAGES = 12, 200, 4
STEPS, MINI_STEPS = 10, 30
OF_LARGE = ("sign", "adam")  # optimisers; the minis' cover all, at a hundredth of the cost
ENERGY_TOLERANCE = 1e-3
ITSELF = "no PyTorch twin ({}): only what gcpatch can check of itself"
MANY = 100  # images, each a second of two cores for a mini and ten for a large network


def names_of(names: Sequence[str], weights: str | None) -> list[str]:
    """The networks to verify, `all` written out, once it is sure that there are such weights.

    Raises:
        UserError: a network does not exist, or is not converted and no weights are named.
    """
    found = [name for given in names for name in ((*PAPER, *MINIS) if given == "all" else (given,))]
    for name in found:
        if factories.is_spec(name):
            continue
        if name not in NAMES and checkpoints.found(name) is None:
            checkpoints.load(name)  # raises, listing the names that there are
    ready = found if weights else MINIS
    missing = [
        name
        for name in dict.fromkeys(found)
        if name not in ready and not factories.is_spec(name) and checkpoints.found(name) is None
    ]
    if missing:
        raise UserError(
            f"not converted yet: {', '.join(missing)}; run `gcpatch convert NAME` for each, "
            "or name the weights: `--weights random` works without any"
        )
    return list(dict.fromkeys(found))


class Pair(NamedTuple):
    """A network, and PyTorch's side of it.

    Attributes:
        network: it.
        theirs: the state_dict that torchvision's module of it shall have; of an imported network
            its module, with the weights; None where PyTorch has none.
        source: where the weights come from.
        beside: a sentence on what it is compared with.
    """

    network: Network
    theirs: Any
    source: str
    beside: str


def pair(name: str, weights: str | None) -> Pair:
    """A network, and what PyTorch shall compute with.

    Args:
        name: one of `gcpatch.networks.NAMES`, an alias, a checkpoint's folder, `torchvision:NAME`,
            `timm:NAME` or `module:factory`, of PyTorch or of JAX.
        weights: torchvision's name of the weights, a file, a checkpoint's folder, or "random";
            None for the converted checkpoint, or the bundled one, beside the weights that it was
            made of: torchvision's where they can be had, or else those written back.

    Raises:
        ConvertError: there are no such weights, or they are not this network's.
        CheckpointError: it is not converted.
    """
    if factories.is_spec(name):
        return _of_spec(name, weights)
    given = Path(weights).expanduser() if weights not in (None, "random") else None
    known = torchvision.manifest_of(name)
    graph = known if known and known["network"] == ARCHITECTURE else None
    if (given and not given.is_dir()) or (graph and weights == "random"):
        made = specs.convert(name, weights)
        theirs = _module(specs.spec_of(graph), made.state_dict) if graph else made.state_dict
        return Pair(made.network, theirs, made.source, f"PyTorch with {made.source}")
    folder = checkpoints.found(name) if weights is None else given
    network = checkpoints.load(name, weights)
    manifest = read_manifest(folder) if folder else {}
    source = manifest.get("source") or ("bundled" if weights is None else "random seed 0")
    if network.architecture == ARCHITECTURE:
        return _of_graph(network, manifest)
    if source.startswith(PRE):
        with suppress(ConvertError):  # nothing can be downloaded here
            theirs = load_weights(network.architecture, source.split()[1]).state_dict
            return Pair(network, theirs, source, f"PyTorch with {source}")
    written = "torchvision's module with the network's own weights, written back"
    return Pair(network, to_torch(network), source, written)


def _of_spec(spec: str, weights: str | None) -> Pair:
    if spec.partition(":")[0] not in factories.LIBRARIES:
        made = factories.make(spec)
        if isinstance(made, Network):
            if weights is not None:
                raise UserError(f"--weights goes with a network's name; {spec} has its own")
            return Pair(made, None, spec, ITSELF.format("it is a network of JAX"))
    converted = specs.convert(spec, weights)
    theirs = _module(spec, converted.state_dict)
    return Pair(converted.network, theirs, converted.source, f"PyTorch with {converted.source}")


def _of_graph(network: Network, manifest: Mapping[str, Any]) -> Pair:
    """An imported network, and its module with the network's parameters, if it can be built."""
    source = manifest["source"]
    try:
        module = _module(specs.spec_of(manifest), specs.to_torch(network, manifest))
    except ConvertError as error:
        return Pair(network, None, source, ITSELF.format(error))
    written = f"{specs.spec_of(manifest)} with the network's own weights, written back"
    return Pair(network, module, source, written)


def _module(spec: str, state_dict: Mapping[str, Any]) -> Any:
    """A module with these weights, in their type."""
    kinds = {value.dtype for value in state_dict.values() if value.is_floating_point()}
    module = build(spec).to(torch.float64 if torch.float64 in kinds else torch.float32)
    module.load_state_dict(state_dict)
    return module


def announce(folder: Path, limit: int | None, note: Callable[[str], None]) -> None:
    """Tells `note` what a folder's images take, where they are many."""
    count = len(sources.find([folder], 1, "stretch").items[:limit])
    if count > MANY:
        minutes = count / 60
        note(
            f"{count:,} images take some {minutes:,.0f} minutes for each mini and "
            f"{10 * minutes:,.0f} for each large network on two cores; --limit N takes the first N"
        )


class Pictures(NamedTuple):
    """Images of a network's size, uint8 `[n, size, size, 3]`, what they are called and hash to.

    The SHA-256 is of an image's file; of one that was drawn here of its pixels.
    """

    pixels: UInt8[np.ndarray, "n size size 3"]
    names: list[str]
    sha256: list[str]


def pictures(network: Network, folder: Path | None, limit: int | None) -> Pictures:
    """A folder's images (the first `limit`), or scenes and random pixels, of the network's size."""
    size, name = network.preprocessing.size, network.architecture
    if folder is not None:
        items = sources.find([folder], size, "stretch").items[:limit]
        read = [item.read() for item in items]
        return Pictures(
            np.stack([picture.pixels for picture in read]),
            [item.source for item in items],
            [picture.sha256 for picture in read],
        )
    count = (MINI_IMAGES if name in SMALL else IMAGES) - RANDOM_IMAGES
    scenes = np.rint(np.asarray(draw_batch(0, count, size=size).image) * 255).astype(np.uint8)
    shape = (RANDOM_IMAGES, size, size, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    pixels = np.concatenate([scenes[:1], noise, scenes[1:]])
    kinds = ["scene", *["random pixels"] * RANDOM_IMAGES, *["scene"] * (count - 1)]
    names = [f"{kind} {i}" for i, kind in enumerate(kinds)]
    return Pictures(pixels, names, [hashlib.sha256(image).hexdigest() for image in pixels])


class Verified(NamedTuple):
    """A network's rows, and what they are of: with what, in which precision, on which images.

    The others are `Pair`'s.
    """

    rows: list[Row]
    network: Network
    theirs: Any
    source: str
    beside: str
    precision: str
    images: Pictures


def verify(
    name: str,
    *,
    weights: str | None = None,
    folder: Path | None = None,
    limit: int | None = None,
    precision: str = "float32",
    steps: int | None = None,
) -> Verified:
    """Compares one network with PyTorch; for the arguments see `pair`, `pictures`, `compare`."""
    if precision not in TOLERANCES:
        choices = ", ".join(TOLERANCES)
        raise UserError(f"there is no precision {precision!r}; choose one of {choices}")
    if steps is not None and steps < 0:
        raise UserError(f"steps is {steps}; it must be at least 0")
    found = pair(name, weights)
    network, theirs, *_ = found
    images = pictures(network, folder, limit)
    mini = network.architecture in SMALL
    steps = (MINI_STEPS if mini else STEPS) if steps is None else steps
    optimizers = tuple(OPTIMIZERS) if mini else OF_LARGE
    count = len(images.pixels)
    tasks = count + min(LOSSES_ON, count)
    tasks += len(optimizers) if steps and theirs is not None else 0
    with tqdm(total=tasks, desc=name, unit=" comparisons", dynamic_ncols=True, disable=None) as bar:
        if theirs is None:
            rows = check(network, images.pixels, precision, bar.update)
        else:
            rows = compare(network, theirs, images.pixels, precision, steps, optimizers, bar.update)
    return Verified(rows, *found, precision, images)


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
    found = [r for r in read_records(folder) if not r.get("error") and not r.get("skipped")]
    settings, region = _settings(folder)
    return _verdict(
        folder, [_recorded(folder, record) for record in found], settings, region, weights
    )


class Recorded(NamedTuple):
    """What a record says that PyTorch can judge: the answer to the PNG, and the patch's energy.

    `target` is None of an untargeted attack, whose energy is that of the class seen.
    """

    id: str
    model: str
    target: int | None
    label: int
    energy: float


def _recorded(folder: Path, record: dict[str, Any]) -> Recorded:
    """What is needed of a record; UserError where it lacks it."""
    try:
        return Recorded(
            str(record["id"]),
            str(record["model"]),
            None if "mode" in record["target"] else int(record["target"]["id"]),
            int(record["png"]["id"]),
            float(record["energy_adversarial"]),
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{folder} lacks what an attack records of an image or its weights"
        ) from None


def _verdict(
    folder: Path,
    records: list[Recorded],
    settings: dict[str, Any],
    region: Region,
    weights: str | None,
) -> Verdict:
    if not isinstance(settings.get("weights_digest"), dict):
        raise UserError(f"{folder} lacks what an attack records of an image or its weights")
    attack = {"layer": None, "explainer": "grad-cam"} | settings.get("attack", {})
    if (explainer := attack["explainer"]) != "grad-cam":
        raise UserError(
            f"the maps of {folder} are {explainer}'s; PyTorch's side of verify has grad-cam alone"
        )
    rows, differing = [], []
    for name in dict.fromkeys(record.model for record in records):
        mine = [record for record in records if record.model == name]
        model = _model(_pair_of(name, settings, weights), attack["layer"])
        wrong, errors = [], []
        for record in tqdm(mine, desc=name, unit=" images", dynamic_ncols=True, disable=None):
            label, energy = _look(model, folder, record, region)
            wrong.append(label != record.label)
            errors.append(abs(energy - record.energy))
            if wrong[-1] or errors[-1] > ENERGY_TOLERANCE:
                differing.append(record.id)
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


def _model(found: Pair, layer: str | None) -> reference.Classifier:
    """PyTorch's side of a run's network, explained where the run explains it.

    Raises:
        UserError: PyTorch has none.
    """
    network, theirs = found.network, found.theirs
    if theirs is None:
        raise UserError(f"PyTorch cannot judge a run of {network.name}: {found.beside}")
    if network.architecture == ARCHITECTURE:
        return Imported(network, theirs, layer=layer).classifier
    return replace(classifier(network, to_torch(network)), layer=network.resolve(layer))


def _pair_of(name: str, settings: dict[str, Any], weights: str | None) -> Pair:
    """The network whose weights have the digest that a run recorded, and PyTorch's side of it."""
    for load in _candidates(name, settings, weights):
        found = load()
        if checkpoints.digest(found.network) == settings["weights_digest"].get(name):
            return found
    raise UserError(
        f"the run's weights of {name} are not at hand: convert them again, or name them with "
        "--weights (networks of JAX have no PyTorch twin)"
    )


def _candidates(
    name: str, settings: dict[str, Any], weights: str | None
) -> Iterator[Callable[[], Pair]]:
    if weights not in (None, "random"):
        yield lambda: pair(name, weights)
        return
    if weights is None and (name in MINIS or checkpoints.found(name) is not None):
        yield lambda: pair(name, None)
    if name in NAMES:
        network = random(name, settings.get("seed", 0))
        yield lambda: Pair(network, to_torch(network), "random", "")


def _look(
    model: reference.Classifier, folder: Path, record: Recorded, region: Region
) -> tuple[int, float]:
    """PyTorch's top class of an image's adversarial.png, and the patch's energy for the target.

    Without a target the energy is for PyTorch's own top class.
    """
    path = images_of(folder, record.id) / "adversarial.png"
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"), np.float32) / 255
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    _, logits, _, heat = reference.grad_cam(model, tensor(pixels), record.target or 0)
    top = int(logits.argmax())
    if record.target is None:
        heat = reference.grad_cam(model, tensor(pixels), top).heat
    covered = _covered(region, tuple(heat.shape), pixels.shape[:2])
    return top, float(reference.energy(heat, covered).detach())


def _covered(region: Region, cells: tuple[int, ...], size: tuple[int, int]) -> Any:
    """The share of each of a map's cells that a run's perturbation covers, by PyTorch."""
    if isinstance(region, Patch):
        return reference.coverage(cells, size, region.corner(*size), region.size)
    inside = torch.from_numpy(np.asarray(region.place(*size).ratio)[None, ..., 0] > 0).double()
    return torch.nn.functional.adaptive_avg_pool2d(inside, (cells[0], cells[1]))[0]
