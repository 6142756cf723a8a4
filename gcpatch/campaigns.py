"""Many images through one attack, and what became of each, as records in a run's folder."""

import dataclasses
import datetime
import itertools
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gcpatch import images, labels, metrics, render
from gcpatch.attacks import Attack, Problem
from gcpatch.checkpoints import digest
from gcpatch.errors import UserError
from gcpatch.explainers import logits_and_grad_cam
from gcpatch.inputs import Item, Picture
from gcpatch.journal import Journal
from gcpatch.networks import Network
from gcpatch.networks.network import ArrayLike
from gcpatch.patches import Patch, coverage
from gcpatch.slots import Finished, stream

PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}
PACKAGES = ("gcpatch", "jax", "flax", "optax", "numpy", "opencv-python-headless")
FIELDS = (
    "id", "source", "sha256", "model", "objective", "target", "label", "clean", "adversarial",
    "png", "steps", "converged", "fooled_class", "fooled_explanation", "fooled_both",
    "energy_clean", "energy_adversarial", "pointing_clean", "pointing_adversarial", "map_iou",
    "map_rank_correlation", "loss", "linf", "l2", "psnr", "pixels_changed_share", "error",
)  # fmt: skip


def describe(
    networks: list[Network], patch: Patch, attack: Attack, settings: dict[str, Any]
) -> dict[str, Any]:
    """What a run's `run.json` holds: the settings, which `--resume` compares, and where it runs."""
    settings = settings | {
        "weights_digest": {network.name: digest(network) for network in networks},
        "objective": _name(attack),
        "patch": dataclasses.asdict(patch),
        "attack": dataclasses.asdict(attack) | {"objective": _name(attack)},
    }
    device = jax.devices()[0]
    return {
        "settings": settings,
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "device": f"{device.platform}: {device.device_kind}",
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["gcpatch", *sys.argv[1:]]),
    }


def _name(attack: Attack) -> str:
    return attack.objective if isinstance(attack.objective, str) else attack.objective.__name__


@jax.jit
def look(
    network: Network, image: Float[ArrayLike, "h w 3"], label: Int[ArrayLike, ""] | int
) -> tuple[Float[Array, " classes"], Float[Array, "h2 w2"]]:
    """The logits of one image, and Grad-CAM of one class; of the top class where it is negative."""
    trunk, head = network.split()
    activations = trunk(jnp.asarray(image))
    label = jnp.where(label < 0, head(activations).argmax(), label)
    return logits_and_grad_cam(head, activations, label)


class _Clean(NamedTuple):
    """What is known of an image before its attack."""

    item: Item
    picture: Picture
    label: int
    target: int
    logits: np.ndarray
    heat: np.ndarray
    heat_of_target: np.ndarray


def run(
    journal: Journal, network: Network, items: Iterable[Item], patch: Patch, attack: Attack,
    *, target: str = "random", seed: int = 0, batch: int = 8, precision: str = "float32",
    on_record: Callable[[dict[str, Any]], None] = lambda record: None,
    on_steps: Callable[[int], None] = lambda count: None,
    on_batch: Callable[[int], None] = lambda batch: None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Attacks the items that the journal lacks and writes their files and records.

    An item that cannot be done costs only itself: its record says why.

    Args:
        journal: the run's folder.
        network: the network to fool.
        items: the images.
        patch: its size, ratio and place.
        attack: how to optimise it.
        target: one of `labels.RULES`, or a class by name or number, for items without their own.
        seed: of everything random; an image's own numbers come from it and the image's digest.
        batch: how many images are optimised at a time.
        precision: of the optimisation, in `PRECISIONS`; everything recorded is in float32.
        on_record: called with each new record.
        on_steps: called with the number of image-steps taken since the last call.
        on_batch: called with the new `batch` when the device lacked memory for the old one.

    Returns:
        The new records, in the order in which they came to be.
    """
    waiting: dict[int, _Clean] = {}
    written: list[dict[str, Any]] = []
    numbers = itertools.count()
    name = _name(attack)

    def keep(record: dict[str, Any]) -> None:
        record = {field: None for field in FIELDS} | record | {"error": record.get("error")}
        journal.append(record)
        written.append(record)
        on_record(record)

    def problems() -> Iterator[Problem]:
        for item in items:
            if item.id in journal.done:
                continue
            identity = {
                "id": item.id,
                "source": item.source,
                "model": network.name,
                "objective": name,
            }
            try:
                clean = _look_at(network, item, target, seed)
                corner = patch.corner(*clean.picture.pixels.shape[:2])
            except UserError as error:
                keep(identity | {"error": item.blame(error)})
                continue
            waiting[next(numbers)] = clean
            yield Problem(
                jnp.asarray(clean.picture.pixels, jnp.float32) / 255,
                jnp.asarray(clean.label, jnp.int32),
                jnp.asarray(clean.target, jnp.int32),
                jnp.asarray(patch.ratio, jnp.float32),
                jnp.asarray(corner, jnp.int32),
                jax.random.key(_seeds(seed, clean.picture.sha256)[1]),
            )

    queue = problems()
    if (first := next(queue, None)) is None:
        return written
    row, column = map(int, first.corner)  # that of all: the images of a run have one size
    outcomes = stream(
        network, itertools.chain([first], queue), patch.size, attack, batch, on_steps,
        PRECISIONS[precision], (row, column), on_batch,
    )  # fmt: skip
    for index, finished in outcomes:
        clean = waiting.pop(index)
        conclude = partial(_conclude, network, clean, finished, patch, name)
        keep(journal.store(clean.item.id, conclude, finished.history))
    return written


def _seeds(seed: int, sha256: str) -> tuple[int, int]:
    return seed, int(sha256[:8], 16)


def _look_at(network: Network, item: Item, rule: str, seed: int) -> _Clean:
    rule = item.target or rule
    labels.check(rule, network.categories)
    picture = item.read()
    image = jnp.asarray(picture.pixels, jnp.float32) / 255
    logits, heat = jax.tree.map(np.asarray, look(network, image, jnp.asarray(-1)))
    label = labels.find(item.label, network.categories) if item.label else int(logits.argmax())
    target = labels.choose(rule, logits, network.categories, _seeds(seed, picture.sha256))
    _, of_target = look(network, image, jnp.asarray(target))
    return _Clean(item, picture, label, target, logits, heat, np.asarray(of_target))


def _conclude(
    network: Network, clean: _Clean, finished: Finished, patch: Patch, name: str, folder: Path
) -> dict[str, Any]:
    """Writes an image's files and measures them; the verdict is that of the re-read PNG."""
    before = clean.picture.pixels
    file = folder / "adversarial.png"
    images.write_png(file, np.rint(finished.adversarial * 255).astype(np.uint8))
    after = images.read_png(file)
    target = jnp.asarray(clean.target)
    logits, _ = look(network, jnp.asarray(finished.adversarial), target)
    png_logits, heat = jax.tree.map(
        np.asarray, look(network, jnp.asarray(after, jnp.float32) / 255, target)
    )
    row, column = corner = patch.corner(*before.shape[:2])
    covered = np.asarray(coverage(heat.shape, before.shape[:2], jnp.asarray(corner), patch.size))
    png = _answer(network, png_logits)
    record = {
        "id": clean.item.id,
        "source": clean.item.source,
        "sha256": clean.picture.sha256,
        "model": network.name,
        "objective": name,
        "target": _named(network, clean.target),
        "label": _named(network, clean.label) if clean.item.label else None,
        "clean": _answer(network, clean.logits),
        "adversarial": _answer(network, logits),
        "png": {"id": png["id"], "probability": png["probability"]},
        "steps": finished.steps,
        "converged": finished.converged,
        **_verdict(name, png["id"] == clean.target, clean, heat, covered),
        "loss": finished.losses._asdict(),
        **metrics.distance(before, after)._asdict(),
    }
    if clean.picture.mask is not None:
        weights = metrics.object_weights(clean.picture.mask, heat.shape)
        record["object_energy_clean"] = metrics.energy(clean.heat, weights)
        record["object_energy_adversarial"] = metrics.energy(heat, weights)
    render.write_pictures(
        folder, clean=before, adversarial=after,
        patch=after[row : row + patch.size, column : column + patch.size],
        heat_clean=clean.heat, heat_adversarial=heat, box=(row, column, patch.size), record=record,
    )  # fmt: skip
    return record


def _named(network: Network, label: int) -> dict[str, Any]:
    return {"id": label, "name": network.categories[label]}


def _answer(network: Network, logits: Array | np.ndarray) -> dict[str, Any]:
    label = int(np.argmax(logits))
    odds = jax.nn.softmax(jnp.asarray(logits))
    return _named(network, label) | {"probability": float(odds[label])}


def _verdict(
    name: str, fooled_class: bool, clean: _Clean, heat: np.ndarray, covered: np.ndarray
) -> dict[str, Any]:
    energy, points = metrics.energy(heat, covered), metrics.pointing(heat, covered)
    fooled_map = metrics.fooled_explanation(name, energy, points)
    return {
        "fooled_class": fooled_class,
        "fooled_explanation": fooled_map,
        "fooled_both": None if fooled_map is None else fooled_class and fooled_map,
        "energy_clean": metrics.energy(clean.heat_of_target, covered),
        "energy_adversarial": energy,
        "pointing_clean": metrics.pointing(clean.heat_of_target, covered),
        "pointing_adversarial": points,
        "map_iou": metrics.iou(clean.heat, heat),
        "map_rank_correlation": metrics.rank_correlation(clean.heat, heat),
    }
