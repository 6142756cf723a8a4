"""Do adversarial images made against one network fool another, another explainer, a defence?"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gcpatch import labels, metrics
from gcpatch.bootstrap import bootstrap
from gcpatch.defences import Defence, defence
from gcpatch.errors import UserError
from gcpatch.images import read_png
from gcpatch.merging import Run, gather
from gcpatch.methods import compiled
from gcpatch.networks import Network
from gcpatch.patches import Place, coverage, paste
from gcpatch.regions import region

NONE = "none"  # no defence
GROUP = ("run", "model", "objective", "defence", "network", "method")
MEASURED = ("fooled_class", "fooled_explanation", "energy", "pointing")


def transfer(
    folders: Sequence[Path], networks: Iterable[Network], methods: Sequence[str],
    defences: Sequence[str] = (NONE,), limit: int | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Shows the images of runs to networks and explainers; a row for each of everything.

    A row says whether the top class is the target, which share of the positive part of the
    target's map lies in the patch (energy), whether the map's maximum does (pointing), whether that
    fools the explanation as the run's objective wants (section "What counts as fooled" of the
    README), and the patch's share of the image's area, which a map that knows nothing would give.

    Args:
        folders: of runs.
        networks: to ask.
        methods: names in `methods.METHODS`.
        defences: names as `defences.defence` takes them, and `none`.
        limit: the most images of each run.

    Yields:
        Rows with the keys `GROUP`, `MEASURED`, `id` and `area`.

    Raises:
        UserError: a folder holds no run or no adversarial images, a defence does not exist, or a
            network does not know a target.
    """
    runs = [(folder.name, run := gather([folder]), _placed(run, folder)) for folder in folders]
    through = {name: None if name == NONE else defence(name) for name in defences}
    for network in networks:
        judge = jax.jit(lambda network, image: network(image))
        explainers = {method: compiled(method) for method in methods}
        for name, run, place in runs:
            for record, folder in list(_done(run))[:limit]:
                pixels = read_png(folder / "images" / record["id"] / "adversarial.png")
                where = place(*pixels.shape[:2])
                target = _target(record["target"], network.categories)
                known = {
                    "run": name, "model": record["model"], "objective": record["objective"],
                    "network": network.name, "id": record["id"],
                }  # fmt: skip
                for kind, change in through.items():
                    image, inside = behind(pixels, where, change, record["sha256"])
                    fooled = int(judge(network, image).argmax()) == target
                    for method, explain in explainers.items():
                        heat = np.asarray(jnp.maximum(explain(network, image, target), 0))
                        yield known | {
                            "defence": kind, "method": method, "fooled_class": fooled,
                            **measure(heat, inside, record["objective"]),
                        }  # fmt: skip


def _placed(run: Run, folder: Path) -> Callable[[int, int], Place]:
    """Where the run's perturbations lie in an image of a height and width."""
    try:
        return region(run.settings["settings"]["patch"]).place
    except (KeyError, TypeError, AttributeError, StopIteration):
        raise UserError(f"{folder / 'run.json'} does not say where the patches lie") from None


def _done(run: Run) -> Iterator[tuple[dict[str, Any], Path]]:
    for record, folder in zip(run.records, run.folders, strict=True):
        if not record["error"] and not record.get("skipped"):
            yield record, folder


def _target(recorded: dict[str, Any], categories: Sequence[str]) -> int:
    """The target's ID for another network: the recorded one, where it has the recorded name."""
    if list(categories[recorded["id"] : recorded["id"] + 1]) == [recorded["name"]]:
        return recorded["id"]
    return labels.find(recorded["name"], categories)


def behind(
    pixels: np.ndarray, place: Place, change: Defence | None, digest: str
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
    fooled = metrics.fooled_explanation(objective, energy, points)
    return {
        "energy": energy, "pointing": points, "fooled_explanation": fooled,
        "area": float(inside.mean()),
    }  # fmt: skip


def summarise(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each group of rows the number of images, and of each quantity the mean with its interval.

    A mean is `{"value", "low", "high"}`, with the 95 % interval of the bootstrap over images; None
    where the objective wants nothing of the explanation.
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
    return None if None in values else bootstrap(np.asarray(values, float))._asdict()
