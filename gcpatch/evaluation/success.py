"""How long an image takes whose fooling is proven: steps, the cost of a step, and the exact check.

A mode is a way to attack; `MODES` has gcpatch's own, `convert.success` PyTorch's. An image counts
as fooled only after a full evaluation of its 8-bit picture, written as PNG and read again, whatever
the mode found on its way. Attacks are timed from the first image to the last verdict; what is made
once (compiling, and what a mode prepares) is a number of its own.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gcpatch.attacks import slots
from gcpatch.attacks.blending import coverage
from gcpatch.attacks.patches import Library
from gcpatch.attacks.regions import Patch, Placement
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.step import make_problem
from gcpatch.data import images, labels, scenes, sources
from gcpatch.errors import UserError
from gcpatch.evaluation import bench, metrics
from gcpatch.explainers.cam import classify_and_explain
from gcpatch.networks import Network

SCENES_SEED = 11  # which training never sees


class Case(NamedTuple):
    """An image to attack, in [0, 1], and the class that it shall be taken for."""

    image: Float[np.ndarray, "h w 3"]
    target: int


class Setting(NamedTuple):
    """What is asked of every mode: place and size, loss and limits, images at a time.

    Attributes:
        library: patches that the attacks start from, each from its target's; None for a cold start.
    """

    patch: Patch
    attack: Attack
    batch: int
    library: Library | None = None

    def start(self, case: Case) -> Float[np.ndarray, "rows columns 3"] | None:
        """The tile that an image starts from, in [0, 1]; None without a library."""
        if self.library is None:
            return None
        return np.asarray(self.library[case.target].start(case.image))


class Attempt(NamedTuple):
    """What a mode made of the case of this number, in so many steps, and where its patch lies."""

    number: int
    adversarial: Float[np.ndarray, "h w 3"]
    steps: int
    place: Placement


class Attacker(NamedTuple):
    """A mode made ready.

    Attributes:
        attack: cases, with at most so many steps.
        note: what was chosen, such as how many images at a time.
    """

    attack: Callable[[Sequence[Case], int], Iterator[Attempt]]
    note: str = ""


class Mode(NamedTuple):
    """A way to attack.

    Attributes:
        prepare: what attacks, made once for a network and a setting.
        class_only: whether it knows nothing of explanations: then the class alone is judged.
        most: images that it gets, where it is too slow for all.
        memory: measures the most memory in use since it was made, as `bench.Peak`.
        variant: of `bench`, whose step costs the same, for estimates; None where there is none.
    """

    prepare: Callable[[Network, Setting], Attacker]
    class_only: bool = False
    most: int | None = None
    memory: Callable[[], Any] = bench.Peak
    variant: str | None = None


class Row(NamedTuple):
    """One mode on one network.

    Attributes:
        fooled: proven images, of the `images` attacked.
        judged: what they had to fool.
        seconds_per_image: for each proven image, with those that failed on the way; None if none.
        steps_median, steps_90: of all images; those that failed count with the steps they took.
        prepare_seconds: compiling, and what else is made once.
        peak_memory_bytes: None where it is not known.
        estimate: whether the row was computed from a step's cost and another network's steps.
        note: what the mode chose, or where an estimate's steps are from.
    """

    network: str
    mode: str
    size: int
    batch: int
    judged: str
    images: int
    fooled: int
    images_per_hour: float
    seconds_per_image: float | None
    steps_mean: float
    steps_median: float
    steps_90: float
    prepare_seconds: float
    peak_memory_bytes: int | None
    estimate: bool = False
    note: str = ""


# ---- gcpatch's modes


def _gcpatch(network: Network, setting: Setting, *, in_full: bool = False, **changed) -> Attacker:
    """Attacks through slots; `changed` are fields of `Attack` that make the mode."""

    def attacker(cases: Sequence[Case], steps: int) -> Iterator[Attempt]:
        attack = replace(setting.attack, steps=steps, **changed)
        place = setting.patch.place(*cases[0].image.shape[:2])
        problems = (
            make_problem(
                network,
                case.image,
                case.target,
                attack,
                placement=place,
                key=jax.random.key(number),
                start=setting.start(case),
            )
            for number, case in enumerate(cases)
        )
        corner = None if in_full else slots.corner_of(place)
        batch = min(setting.batch, len(cases))
        found = slots.stream(network, problems, place.shape, attack, batch, corner=corner)
        for number, result in found:
            yield Attempt(number, result.adversarial, result.steps, place)

    return Attacker(attacker)


MODES: dict[str, Mode] = {
    "gcpatch-full": Mode(partial(_gcpatch, in_full=True), variant="gcpatch-full"),
    "gcpatch-incremental": Mode(_gcpatch, variant="gcpatch-incremental"),
    "gcpatch-near": Mode(partial(_gcpatch, reach="near"), variant="gcpatch-near"),
}


def warm(mode: Mode, library: Library) -> Mode:
    """The mode with a start from a library's patches; LibraryError where one is missing."""

    def prepare(network: Network, setting: Setting) -> Attacker:
        made = mode.prepare(network, setting._replace(library=library))

        def attacker(cases: Sequence[Case], steps: int) -> Iterator[Attempt]:
            targets = {case.target for case in cases}
            library.check_starts(network, setting.patch, cases[0].image.shape[:2], targets)
            return made.attack(cases, steps)

        return made._replace(attack=attacker)

    return mode._replace(prepare=prepare, variant=None)


# ---- images


def cases_of(
    network: Network, paths: Sequence[str] | None, *, count: int | None = None, seed: int = 0
) -> list[Case]:
    """Photographs, or drawn scenes, each with a random target that is not its top class.

    Args:
        network: that is attacked.
        paths: as `gcpatch attack` takes them; scenes if None.
        count: the first so many; all of the photographs, or 16 scenes, if None.
        seed: of the targets.

    Raises:
        UserError: there are no such images, or the network knows no scenes.
    """
    if paths is not None:
        found = sources.find(list(paths), network.preprocessing.size, "stretch", None)
        pixels = (item.read().pixels for item in found.items)
    elif network.categories == scenes.CATEGORIES:
        drawn = scenes.draw_batch(SCENES_SEED, count or 16, size=network.preprocessing.size)
        pixels = (np.rint(np.asarray(image) * 255) for image in drawn.image)
    else:
        raise UserError(f"{network.name} knows no scenes; give photographs with --images")
    cases = []
    for number, image in enumerate(itertools.islice(pixels, count)):
        image = np.asarray(image, np.float32) / 255
        logits, _ = classify_and_explain(network, image)
        target = labels.choose("random", np.asarray(logits), network.categories, (seed, number))
        cases.append(Case(image, target))
    return cases


# ---- the verdict and the row


def proven(
    network: Network, attempt: Attempt, target: int, attack: Attack, *, class_only: bool = False
) -> bool:
    """Whether the 8-bit picture fools class and explanation, after writing and reading it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "adversarial.png"
        images.write_png(file, np.rint(attempt.adversarial * 255).astype(np.uint8))
        png = images.read_png(file)
    logits, heat = jax.tree.map(
        np.asarray,
        classify_and_explain(
            network,
            jnp.asarray(png, jnp.float32) / 255,
            jnp.asarray(target),
            layer=attack.layer,
            explainer=attack.explainer,
        ),
    )
    if logits.argmax() != target or class_only or attack.objective.fooled is None:
        return bool(logits.argmax() == target)
    corner, shape, ratio, _ = attempt.place
    covered = coverage(heat.shape, png.shape[:2], jnp.asarray(corner), shape, ratio)
    weights = np.asarray(covered)
    return attack.objective.fooled(metrics.energy(heat, weights), metrics.pointing(heat, weights))


def measure(
    network: Network, cases: Sequence[Case], name: str, mode: Mode, setting: Setting
) -> Row:
    """Attacks every case in a mode, judges the results, and times both."""
    cases, attack = cases[: mode.most], setting.attack
    start = time.perf_counter()
    attacker = mode.prepare(network, setting)
    first = attacker.attack(cases[: setting.batch], min(slots.CHUNK, attack.steps))
    for attempt in first:  # compiles the attack and the check
        proven(network, attempt, cases[attempt.number].target, attack)
    prepared = time.perf_counter() - start
    memory, start = mode.memory(), time.perf_counter()
    steps, fooled = [], 0
    for attempt in attacker.attack(cases, attack.steps):
        target = cases[attempt.number].target
        fooled += proven(network, attempt, target, attack, class_only=mode.class_only)
        steps.append(attempt.steps)
    seconds = time.perf_counter() - start
    judged = "class" if mode.class_only or attack.objective.fooled is None else "class and map"
    return Row(
        network=network.name,
        mode=name,
        size=setting.patch.size,
        batch=setting.batch,
        judged=judged,
        images=len(cases),
        fooled=fooled,
        images_per_hour=3600 * fooled / seconds,
        seconds_per_image=seconds / fooled if fooled else None,
        steps_mean=float(np.mean(steps)),
        steps_median=float(np.median(steps)),
        steps_90=float(np.quantile(steps, 0.9)),
        prepare_seconds=prepared,
        peak_memory_bytes=memory.peak(),
        note=attacker.note,
    )


def estimated(pace: bench.Row, found: Row) -> Row:
    """What a network with random weights would take: its own step, `found`'s steps and success.

    Args:
        pace: the mode's cost of a step on the network.
        found: the mode on a trained network.
    """
    share = found.fooled / found.images
    seconds = found.steps_mean / pace.image_steps_per_second
    return found._replace(
        network=pace.network,
        size=pace.size,
        batch=pace.batch,
        images_per_hour=3600 * share / seconds,
        seconds_per_image=seconds / share if share else None,
        prepare_seconds=pace.compile_seconds,
        peak_memory_bytes=pace.peak_memory_bytes,
        estimate=True,
        note=f"estimate: cost of a step here x steps and success of {found.network}",
    )


def compare(
    trained: Iterable[tuple[Network, Sequence[Case]]],
    untrained: Iterable[Network],
    *,
    modes: Mapping[str, Mode],
    paces: Mapping[str, Callable[..., bench.Row]],
    setting: Setting,
    on_error: Callable[[str], None],
) -> Iterator[Row]:
    """Every mode on every network, one after another.

    Args:
        trained: networks and what is attacked on each.
        untrained: networks with random weights, which nothing fools in a number of steps that
            means anything: their rows are estimates, of the first trained network's steps.
        modes: by name.
        paces: what measures the cost of a step, by the variant of `bench`.
        setting: of the attacks.
        on_error: is told of a mode that cannot be; it is left out from there on.
    """
    possible = dict(modes)
    found: dict[str, Row] = {}
    for network, cases in trained:
        for name, mode in list(possible.items()):
            try:
                row = measure(network, cases, name, mode, setting)
            except UserError as error:
                on_error(f"without {name}: {error}")
                del possible[name]
                continue
            found.setdefault(name, row)
            yield row
    for network in untrained:
        for name, row in found.items():
            variant = modes[name].variant
            if variant is not None and variant in paces:
                pace = paces[variant](
                    network=network,
                    size=setting.patch.size,
                    batch=setting.batch,
                    variant=variant,
                    repeats=3,
                )
                yield estimated(pace, row)
