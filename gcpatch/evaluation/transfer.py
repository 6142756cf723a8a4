"""Do adversarial images made against one network fool another, another explainer, a defence?"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gcpatch.attacks.blending import coverage, paste
from gcpatch.attacks.objectives import fooled_explanation
from gcpatch.attacks.regions import Placement
from gcpatch.data import labels
from gcpatch.data.images import read_png
from gcpatch.evaluation import metrics
from gcpatch.evaluation.defences import Defence, defence
from gcpatch.evaluation.intervals import bootstrap
from gcpatch.explainers.registry import compiled
from gcpatch.networks import Network

NONE = "none"  # no defence
GROUP = ("run", "model", "objective", "defence", "network", "method")
MEASURED = ("fooled_class", "fooled_explanation", "energy", "pointing")


class Attacked(NamedTuple):
    """An adversarial image of a run.

    Attributes:
        run: the run's name.
        record: its record.
        picture: its PNG.
        place: where its perturbation lies in an image of a height and width.
    """

    run: str
    record: dict[str, Any]
    picture: Path
    place: Callable[[int, int], Placement]


def transfer(
    attacked: Iterable[Attacked],
    networks: Iterable[Network],
    methods: Sequence[str],
    defences: Sequence[str] = (NONE,),
) -> Iterator[dict[str, Any]]:
    """Shows attacked images to networks and explainers; a row for each of everything.

    A row says whether the top class is the target, which share of the positive part of the
    target's map lies in the patch (energy), whether the map's maximum does (pointing), whether that
    fools the explanation as the run's objective wants (section "What counts as fooled" of the
    README), and the patch's share of the image's area, which a map that knows nothing would give.
    Of an untargeted attack it says whether the top class is not the clean image's, and the map is
    the top class's.

    Args:
        attacked: the images, as `gcpatch.report.records.attacked` finds them.
        networks: to ask.
        methods: names in `registry.METHODS`.
        defences: names as `defences.defence` takes them, and `none`.

    Yields:
        Rows with the keys `GROUP`, `MEASURED`, `id` and `area`.

    Raises:
        UserError: a defence does not exist, or a network does not know a target, or the class that
            an untargeted attack leads away from.
    """
    attacked = list(attacked)
    through = {name: None if name == NONE else defence(name) for name in defences}
    for network in networks:
        judge = jax.jit(lambda network, image: network(image))
        explainers = {method: compiled(method) for method in methods}
        for run, record, picture, place in attacked:
            pixels = read_png(picture)
            where = place(*pixels.shape[:2])
            untargeted = record["target"].get("mode") == labels.UNTARGETED
            named = _target(record["clean" if untargeted else "target"], network.categories)
            known = {
                "run": run,
                "model": record["model"],
                "objective": record["objective"],
                "network": network.name,
                "id": record["id"],
            }
            for kind, change in through.items():
                image, inside = behind(pixels, where, change, record["sha256"])
                top = int(judge(network, image).argmax())
                explained = top if untargeted else named
                for method, explain in explainers.items():
                    heat = np.asarray(jnp.maximum(explain(network, image, explained), 0))
                    yield known | {
                        "defence": kind,
                        "method": method,
                        "fooled_class": (top == named) != untargeted,
                        **measure(heat, inside, record["objective"]),
                    }


def _target(recorded: dict[str, Any], categories: Sequence[str]) -> int:
    """A class's ID for another network: the recorded one, where it has the recorded name."""
    if list(categories[recorded["id"] : recorded["id"] + 1]) == [recorded["name"]]:
        return recorded["id"]
    return labels.find(recorded["name"], categories)


def behind(
    pixels: np.ndarray, place: Placement, change: Defence | None, digest: str
) -> tuple[jax.Array, jax.Array]:
    """An image behind a defence, and where the patch lies in it (1 or 0, `[h, w, 1]`).

    Args:
        pixels: uint8 RGB.
        place: of the patch before the defence.
        change: the defence, if any.
        digest: the clean image's sha256, from which the defence's random numbers come.
    """
    image = jnp.asarray(pixels, jnp.float32) / 255
    tile = jnp.broadcast_to(jnp.asarray(place.ratio, jnp.float32) > 0, (*place.shape, 3))
    inside = paste(jnp.zeros_like(image), tile.astype(image.dtype), jnp.asarray(place.corner))
    key = jax.random.key(int(digest[:8], 16))
    if change is not None:
        image = jnp.asarray(change.verdict(image, key))
        if change.moves:
            inside = jnp.asarray(change.verdict(inside, key)) >= 0.5
    return image, inside[..., :1].astype(image.dtype)


def measure(heat: np.ndarray, inside: jax.Array, objective: str) -> dict[str, Any]:
    """What a map `[h2, w2]`, nowhere negative, says of a patch that lies `inside` `[h, w, 1]`."""
    size = inside.shape[:2]
    covered = np.asarray(coverage(heat.shape, size, (0, 0), size, inside))
    energy, points = metrics.energy(heat, covered), metrics.pointing(heat, covered)
    fooled = fooled_explanation(objective, energy, points)
    return {
        "energy": energy,
        "pointing": points,
        "fooled_explanation": fooled,
        "area": float(inside.mean()),
    }


def summarise(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each group of rows the number of images, and of each quantity the mean with its interval.

    A mean is `{"value", "low", "high"}`, with the 95 % interval over images: Wilson's for what is
    true or false, else the bootstrap's. None where the objective wants nothing of the explanation.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(itemgetter(*GROUP)(row), []).append(row)
    found = []
    for names, some in groups.items():
        means = {name: _mean([row[name] for row in some]) for name in (*MEASURED, "area")}
        found.append(dict(zip(GROUP, names, strict=True)) | {"images": len(some)} | means)
    return found


def _mean(values: list[Any]) -> dict[str, float] | None:
    return None if None in values else bootstrap(np.asarray(values))._asdict()
