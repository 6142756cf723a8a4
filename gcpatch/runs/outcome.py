"""One image of a run: what is known of it before its attack, and what the attack achieved."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from gcpatch.attacks.blending import coverage, with_rings
from gcpatch.attacks.objectives import Objective
from gcpatch.attacks.regions import Placement
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.slots import Asked, Result
from gcpatch.data import labels
from gcpatch.data.sources import Item, Picture
from gcpatch.evaluation import metrics
from gcpatch.explainers.cam import activations_of, classify_and_explain, explain_activations
from gcpatch.networks import Network
from gcpatch.report import figures
from gcpatch.report.table import status

FIELDS = (
    "id",
    "source",
    "sha256",
    "model",
    "objective",
    "target",
    "label",
    "clean",
    "adversarial",
    "png",
    "steps",
    "converged",
    "reach",
    "fooled_class",
    "fooled_explanation",
    "fooled_both",
    "energy_clean",
    "energy_adversarial",
    "energy_ring_clean",
    "energy_ring_adversarial",
    "fooled_explanation_ring",
    "map_empty",
    "pointing_clean",
    "pointing_adversarial",
    "map_iou",
    "map_rank_correlation",
    "loss",
    "linf",
    "l2",
    "psnr",
    "pixels_changed_share",
    "skipped",
    "error",
)


class Clean(NamedTuple):
    """What is known of an image before its attack."""

    item: Item
    picture: Picture
    label: int
    target: int | None  # None of an untargeted attack
    logits: np.ndarray
    heat: np.ndarray
    heat_of_target: np.ndarray | None  # likewise


class Skipped(Exception):  # noqa: N818
    """An image that is not to be attacked, and its record."""

    def __init__(self, record: dict[str, Any]):
        super().__init__(record["skipped"])
        self.record = record


def seeds(seed: int, sha256: str) -> tuple[int, int]:
    """The seeds of an image's own random numbers."""
    return seed, int(sha256[:8], 16)


def look_at(network: Network, item: Item, attack: Attack, *, rule: str, seed: int) -> Clean:
    """Reads an image, asks the network, and chooses the target by the item's own rule or `rule`.

    The maps are those that the attack is about: of its layer, by its explainer.

    Raises:
        Skipped: the image is its target already, or is not taken for its label, where that is all.
        UserError: it cannot be read, its target or label is no class, or its target is not of the
            run's kind.
    """
    labels.check_own(item.target, rule)
    rule = item.target or rule
    labels.check(rule, network.categories)
    picture = item.read()
    image = jnp.asarray(picture.pixels, jnp.float32) / 255
    activations = activations_of(network, image, layer=attack.layer)
    look = partial(explain_activations, network, layer=attack.layer, explainer=attack.explainer)
    logits, heat = jax.tree.map(np.asarray, look(activations))
    label = labels.find(item.label, network.categories) if item.label else int(logits.argmax())
    untargeted = rule == labels.UNTARGETED
    try:
        if untargeted:
            labels.check_right(label, logits, network.categories)
            return Clean(item, picture, label, None, logits, heat, None)
        target = labels.choose(rule, logits, network.categories, seeds(seed, picture.sha256))
    except labels.AlreadyTarget as error:
        known = {
            "sha256": picture.sha256,
            "target": _goal(network, int(logits.argmax()), untargeted),
            "label": _named(network, label) if item.label else None,
            "clean": _answer(network, logits),
            "skipped": str(error),
        }
        raise Skipped(known) from None
    of_target = np.asarray(look(activations, jnp.asarray(target))[1])
    return Clean(item, picture, label, target, logits, heat, of_target)


class Evaluated(NamedTuple):
    """An image's record, and the map of its target, or of the class seen, on the attacked image."""

    record: dict[str, Any]
    heat: np.ndarray


def evaluate_result(
    network: Network,
    clean: Clean,
    finished: Result,
    attack: Attack,
    *,
    png: UInt8[np.ndarray, "height width 3"],
    place: Placement,
) -> Evaluated:
    """Measures what an attack achieved; the verdict is that of the PNG.

    Where there is no target the maps are those of the class that is seen in the PNG.

    Args:
        network: that was attacked.
        clean: what was known of the image before.
        finished: the attack's result.
        attack: how it was attacked.
        png: the adversarial image as it is read from its PNG.
        place: where the perturbation lies.
    """
    before = clean.picture.pixels
    untargeted = clean.target is None
    target = None if untargeted else jnp.asarray(clean.target)
    logits, _ = _look(network, jnp.asarray(finished.adversarial), target, attack)
    png_logits, heat = jax.tree.map(
        np.asarray, _look(network, jnp.asarray(png, jnp.float32) / 255, target, attack)
    )
    covered = np.asarray(
        coverage(heat.shape, before.shape[:2], jnp.asarray(place.corner), place.shape, place.ratio)
    )
    answer = _answer(network, png_logits)
    seen = answer["id"]
    fooled = seen != clean.label if untargeted else seen == clean.target
    goal = seen if clean.target is None else clean.target
    if untargeted:
        of_seen = _map(network, jnp.asarray(before, jnp.float32) / 255, seen, attack)
        clean = clean._replace(heat_of_target=of_seen)
    record = {
        "id": clean.item.id,
        "sha256": clean.picture.sha256,
        "target": _goal(network, goal, untargeted),
        "label": _named(network, clean.label) if clean.item.label else None,
        "clean": _answer(network, clean.logits),
        "adversarial": _answer(network, logits),
        "png": {"id": seen, "probability": answer["probability"]},
        "steps": finished.steps,
        "converged": finished.converged,
        "reach": finished.reach._asdict(),
        **_verdict(attack.objective, fooled, clean, heat, covered),
        "loss": finished.losses._asdict(),
        **metrics.distance(before, png)._asdict(),
    }
    if clean.picture.mask is not None:
        weights = metrics.object_weights(clean.picture.mask, heat.shape)
        record["object_energy_clean"] = metrics.energy(clean.heat, weights)
        record["object_energy_adversarial"] = metrics.energy(heat, weights)
    return Evaluated(record, heat)


class Shown(NamedTuple):
    """A result of `gcpatch.attack` as a person sees it.

    Attributes:
        line: its verdict, class, energy and steps.
        panel: a function of no arguments that draws it.
    """

    line: str
    panel: Callable[[], UInt8[np.ndarray, "height width 3"]]

    def png(self) -> bytes:
        """The panel as a PNG."""
        return cv2.imencode(".png", self.panel()[..., ::-1])[1].tobytes()


def shown(result: Result, asked: Asked) -> Shown:
    """The verdict and the panel of a result, by what was asked; measured once.

    As in a run the verdict is that of the image in 8 bits.
    """
    if asked.answer is None:
        asked.answer = _shown(result, asked)
    return asked.answer


def _shown(result: Result, asked: Asked) -> Shown:
    network, image, target = asked.network, asked.image, asked.target
    attack, place = asked.attack, asked.place
    before, after = (np.rint(255 * np.asarray(x)).astype(np.uint8) for x in (image, result[0]))
    logits, heat = jax.tree.map(np.asarray, _look(network, image, None, attack))
    of_target = None if target is None else _map(network, image, target, attack)
    item = Item("", "", lambda: picture)
    picture = Picture(before, "")
    label = int(logits.argmax()) if asked.label is None else asked.label
    clean = Clean(item, picture, label, target, logits, heat, of_target)
    record, heat_after = evaluate_result(network, clean, result, attack, png=after, place=place)
    record |= {"id": None, "model": network.name, "objective": attack.objective.name}
    (row, column), (side, _), ratio, _ = place
    line = (
        f"Result(verdict={status(record)!r}, class={record['adversarial']['name']!r}, "
        f"energy={record['energy_adversarial']:.3f}, steps={result.steps})"
    )
    box = None if np.ndim(ratio) else (row, column, side)
    return Shown(line, partial(figures.panel, before, after, heat, heat_after, box, record))


def draw(
    folder: Path,
    clean: Clean,
    after: np.ndarray,
    heat: np.ndarray,
    place: Placement,
    record: dict[str, Any],
    colormap: str,
) -> None:
    """Writes an image's pictures, their maps by one of `figures.COLORMAPS`."""
    (row, column), (rows, columns), ratio, _ = place
    figures.write_pictures(
        folder,
        clean=clean.picture.pixels,
        adversarial=after,
        patch=after[row : row + rows, column : column + columns],
        heat_clean=clean.heat,
        heat_adversarial=heat,
        record=record,
        box=None if np.ndim(ratio) else (row, column, rows),
        colormap=colormap,
    )


def _look(network: Network, image: Any, label: Any, attack: Attack) -> tuple[Array, Array]:
    """The logits, and the map that the attack is about."""
    return classify_and_explain(
        network, image, label, layer=attack.layer, explainer=attack.explainer
    )


def _map(network: Network, image: Any, label: int, attack: Attack) -> np.ndarray:
    """The map of a class."""
    return np.asarray(_look(network, image, jnp.asarray(label), attack)[1])


def _named(network: Network, label: int) -> dict[str, Any]:
    return {"id": label, "name": network.categories[label]}


def _goal(network: Network, label: int, untargeted: bool) -> dict[str, Any]:
    """A record's `target`: the class wanted, or, of an untargeted attack, the class seen."""
    return _named(network, label) | ({"mode": labels.UNTARGETED} if untargeted else {})


def _answer(network: Network, logits: Array | np.ndarray) -> dict[str, Any]:
    label = int(np.argmax(logits))
    odds = jax.nn.softmax(jnp.asarray(logits))
    return _named(network, label) | {"probability": float(odds[label])}


def _verdict(
    objective: Objective, fooled_class: bool, clean: Clean, heat: np.ndarray, covered: np.ndarray
) -> dict[str, Any]:
    assert clean.heat_of_target is not None
    energy, points = metrics.energy(heat, covered), metrics.pointing(heat, covered)
    fooled_map = objective.fooled and objective.fooled(energy, points)
    ring = np.asarray(with_rings(covered))
    with_ring = metrics.energy(heat, ring)
    hides = objective.fooled if objective.fooled and objective.fooled(0.0, False) else None
    return {
        "fooled_class": fooled_class,
        "fooled_explanation": fooled_map,
        "fooled_both": None if fooled_map is None else fooled_class and fooled_map,
        "energy_clean": metrics.energy(clean.heat_of_target, covered),
        "energy_adversarial": energy,
        "energy_ring_clean": metrics.energy(clean.heat_of_target, ring),
        "energy_ring_adversarial": with_ring,
        "fooled_explanation_ring": hides and hides(with_ring, points),
        "map_empty": not heat.any(),
        "pointing_clean": metrics.pointing(clean.heat_of_target, covered),
        "pointing_adversarial": points,
        "map_iou": metrics.iou(clean.heat, heat),
        "map_rank_correlation": metrics.rank_correlation(clean.heat, heat),
    }
