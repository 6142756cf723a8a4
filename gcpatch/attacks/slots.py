"""Any number of images through a batch of slots: a slot whose image is done takes the next."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pkgutil import resolve_name
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from gcpatch.attacks.engine import BATCH, advance, reach_of, remember
from gcpatch.attacks.patches import AdversarialPatch, Library, origin_of, patch_of
from gcpatch.attacks.regions import Placement, Region
from gcpatch.attacks.settings import Attack, AttackError
from gcpatch.attacks.step import Losses, Problem, State, init_state, make_problem
from gcpatch.data import labels
from gcpatch.explainers import checks
from gcpatch.interpreters.incremental import Incremental
from gcpatch.networks import Network
from gcpatch.networks.network import ArrayLike

Targets = Int[ArrayLike, " n"] | Sequence[int | str]
CHUNK = 20  # steps between two looks at which images are done


@dataclass(eq=False)
class Asked:
    """What an attack was asked, by which its result can be judged and drawn.

    Attributes:
        network: that was attacked.
        image: as it was.
        target: the class that it shall be taken for.
        attack: how it was attacked.
        place: where the perturbation lies.
        answer: what was found when the result was first shown, which is remembered.
    """

    network: Network
    image: Float[Array, "h w 3"]
    target: int
    attack: Attack
    place: Placement
    answer: Any = None


class Result(NamedTuple):
    """The outcome of one attack, which a notebook shows as a panel.

    Attributes:
        adversarial: the image with its best patch, aiP.
        tile: that patch as it lies in the image.
        steps: the steps taken.
        converged: whether the goal was met (with its margin) before the steps ran out.
        losses: of the best patch.
        history: the losses at every step, `[steps]` each; the last may be no finite number, where
            the attack had to end.
        noise: the best patch's pixels before they are blended (N, eq. 4).
        patch: the best patch as an object, which `gcpatch.attack` gives.
        asked: what the attack was asked, which `gcpatch.attack` gives.
    """

    adversarial: Float[np.ndarray, "h w 3"]
    tile: Float[np.ndarray, "rows columns 3"]
    steps: int
    converged: bool
    losses: Losses
    history: Losses
    noise: Float[np.ndarray, "rows columns 3"] | None = None
    patch: AdversarialPatch | None = None
    asked: Asked | None = None

    def __repr__(self) -> str:
        if self.asked is None:
            return f"Result(converged={self.converged}, steps={self.steps})"
        return self._shown().line

    def _repr_png_(self) -> bytes | None:
        return None if self.asked is None else self._shown().png()

    def _shown(self) -> Any:
        """The verdict and the pictures, which are above: attacks know nothing of reports."""
        return resolve_name("gcpatch.runs.outcome:shown")(self, self.asked)


Finished = Result  # its name in 0.1.0


class InProgress(NamedTuple):
    """An attack that has begun: its problem, its state, and its losses so far, `[steps]` each."""

    problem: Problem
    state: State
    history: Losses


def stream(
    network: Network,
    problems: Iterable[Problem | InProgress],
    shape: tuple[int, int],
    attack: Attack,
    batch: int = 8,
    on_steps: Callable[[int], None] = lambda count: None,
    precision: str = "highest",
    corner: tuple[int, int] | None = None,
    on_batch: Callable[[int], None] = lambda batch: None,
    on_chunk: Callable[["Slots"], None] = lambda slots: None,
    devices: Sequence[jax.Device] | None = None,
) -> Iterator[tuple[int, Result]]:
    """Attacks any number of images through a batch of slots; yields each as it is done.

    Where a device lacks the memory, the images in hand start anew in half as many slots.

    Args:
        network: the network to fool.
        problems: the images, one at a time (no leading axis), all of one shape.
        shape: the perturbation's height and width in pixels.
        attack: how to optimise.
        batch: how many images a device optimises at a time.
        on_steps: called after each chunk with the number of image-steps taken.
        precision: of the products while optimising, as `jax.default_matmul_precision` names it.
        corner: where every problem has its patch: then only what it reaches is evaluated. None
            where the places differ or nothing is out of reach.
        on_batch: called with the number of slots a device when it had to shrink.
        on_chunk: called after each chunk, when what is done has been yielded.
        devices: to share the slots; JAX's default device if None.

    Yields:
        The place of an image among the problems, and its outcome.
    """
    queue: Iterator[tuple[int, Problem | InProgress]] = enumerate(problems)
    while True:
        slots = Slots(network, shape, attack, batch, corner, devices)
        try:
            yield from slots.run(queue, on_steps, on_chunk, precision)
            return
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or batch == 1:
                raise
            batch //= 2
            on_batch(batch)
            queue = itertools.chain(slots.taken.values(), queue)


class Slots:
    """A batch of attacks: where an image is done, the next one takes its slot."""

    def __init__(
        self,
        network: Network,
        shape: tuple[int, int],
        attack: Attack,
        batch: int,
        corner: tuple[int, int] | None,
        devices: Sequence[jax.Device] | None,
    ):
        self.network, self.shape, self.attack, self.corner = network, shape, attack, corner
        self.mesh = Mesh(np.asarray(devices), ("batch",)) if devices else None
        self.count = batch * len(devices or [None])
        self.weights = self._place(network, PartitionSpec())
        self.taken: dict[int, tuple[int, Problem]] = {}
        self.histories: dict[int, list[Losses]] = {}
        self.reach: Incremental | None = None
        self.states: Any = None
        self.problems: Any = None

    def run(
        self, queue: Iterator[tuple[int, Problem | InProgress]], on_steps, on_chunk, precision: str
    ) -> Iterator[tuple[int, Result]]:
        """Yields each image's number and outcome."""
        while True:
            for slot in range(self.count):
                if slot not in self.taken and (item := next(queue, None)) is not None:
                    self._enter(slot, *item)
            if not self.taken:
                return
            before = np.asarray(self.states.step)
            with jax.default_matmul_precision(precision):
                self.states, losses = advance(
                    self.weights,
                    self.states,
                    self.problems,
                    self.attack,
                    min(CHUNK, self.attack.steps),
                    self.reach,
                    self.mesh,
                )
            after, done = np.asarray(self.states.step), np.asarray(self.states.done)
            losses = jax.tree.map(np.asarray, losses)
            on_steps(int((after - before).sum()))
            for slot in list(self.taken):
                self.histories[slot].append(_rows(losses, slot, int(after[slot] - before[slot])))
                if done[slot]:
                    yield self._leave(slot)
            on_chunk(self)

    def underway(self) -> dict[int, InProgress]:
        """The attacks in the slots, by the place of their images among the problems."""
        states = jax.tree.map(np.asarray, self.states)
        return {
            place: InProgress(problem, _row(states, slot), _joined(self.histories[slot]))
            for slot, (place, problem) in self.taken.items()
        }

    def _enter(self, slot: int, place: int, entry: Problem | InProgress) -> None:
        problem, state, history = entry if isinstance(entry, InProgress) else (entry, None, None)
        self.taken[slot] = place, problem
        self.histories[slot] = [] if history is None else [history]
        if self.corner is not None:
            reach = reach_of(
                self.network,
                problem.image,
                corner=self.corner,
                size=self.shape[0],
                layer=self.attack.layer,
            )
            problem, self.reach = remember(self.network, problem, reach), reach.program
        if state is None:
            state = _begin(self.network, problem, self.shape, self.attack)
        problem = problem._replace(start=None)
        if self.states is None:
            idle = jax.tree.map(lambda leaf: jnp.stack([leaf] * self.count), (state, problem))
            self.states, self.problems = self._place(idle, BATCH)
            self.states = self.states._replace(done=jnp.ones_like(self.states.done))
        self.states, self.problems = _put(
            (self.states, self.problems), slot, (state, problem), self.mesh
        )

    def _leave(self, slot: int) -> tuple[int, Result]:
        place, problem = self.taken.pop(slot)
        state, history = _take(self.states, slot), self.histories.pop(slot)
        return place, _finish(self.network, state, problem, history)

    def _place(self, tree: Any, spec: PartitionSpec) -> Any:
        return jax.device_put(tree, NamedSharding(self.mesh, spec)) if self.mesh else tree


_begin = jax.jit(init_state, static_argnames="shape")
_take = jax.jit(lambda tree, slot: jax.tree.map(itemgetter(slot), tree))


@partial(jax.jit, static_argnames="mesh", donate_argnums=0)
def _put(batch: Any, slot, one: Any, mesh: Mesh | None) -> Any:
    """The batch with one state and problem in a slot."""

    def put(batch, slot, one, part):
        size = len(jax.tree.leaves(batch)[0])
        inside = jnp.where(slot < part * size, size, slot - part * size)
        return jax.tree.map(lambda old, new: old.at[inside].set(new, mode="drop"), batch, one)

    if mesh is None:
        return put(batch, slot, one, 0)
    whole = PartitionSpec()
    return jax.shard_map(
        lambda batch, slot, one: put(batch, slot, one, lax.axis_index("batch")),
        mesh=mesh,
        in_specs=(BATCH, whole, whole),
        out_specs=BATCH,
        check_vma=False,
    )(batch, slot, one)


def _row(tree: Any, index: int) -> Any:
    return jax.tree.map(itemgetter(index), tree)


def _rows(losses: Losses, slot: int, count: int) -> Losses:
    """The first `count` steps of one slot."""
    return jax.tree.map(lambda leaf: leaf[:count, slot], losses)


def _joined(history: list[Losses]) -> Losses:
    return jax.tree.map(lambda *parts: np.concatenate(parts), *history)


def _finish(network: Network, state: State, problem: Problem, history: list[Losses]) -> Result:
    tile, adversarial = np.asarray(state.best_tile), np.array(problem.image)
    row, column = map(int, problem.corner)
    adversarial[row : row + tile.shape[0], column : column + tile.shape[1]] = tile
    return Result(
        adversarial,
        tile,
        int(state.step),
        bool(state.best_shortfall == 0),
        Losses(*map(float, state.best_losses)),
        _joined(history),
        np.asarray(network.denormalize(state.best_noise)),
    )


def corner_of(place: Placement) -> tuple[int, int] | None:
    """The corner of a square patch, beyond whose reach nothing is evaluated; None of all else."""
    return place.corner if np.ndim(place.ratio) == 0 else None


def attack(
    network: Network,
    images: Float[ArrayLike, "n h w 3"],
    targets: Targets,
    patch: Region,
    attack: Attack,
    *,
    batch: int = 8,
    seed: int = 0,
    library: Library | None = None,
) -> list[Result]:
    """Attacks images: one optimised perturbation for each, in the order of the images.

    Args:
        network: the network to fool.
        images: RGB in [0, 1].
        targets: the class that each image shall be taken for, by ID or name.
        patch: where it lies: a `Patch`, or a `Frame`, a `Mask`, or the whole image `Bounded`.
        attack: how to optimise it.
        batch: how many images are optimised at a time.
        seed: of the `random` start.
        library: patches from which the images start, each from its target's.

    Raises:
        UserError: the images are no floats in [0, 1], or the targets no classes, one for each.
        LibraryError: the library lacks a target, or is of other classes or shapes.
        PatchError: it does not lie inside the images, or its settings are out of range.
    """
    images, targets = images_and_targets(network, images, targets)
    place = patch.place(*images.shape[1:3])
    keys = jax.random.split(jax.random.key(seed), len(images))
    if library is not None:
        library.check_starts(network, patch, images.shape[1:3], targets.tolist())
    problems = (
        make_problem(
            network,
            image,
            target,
            attack,
            placement=place,
            key=key,
            start=None if library is None else library[int(target)].start(image),
        )
        for image, target, key in zip(images, targets, keys, strict=True)
    )
    batch = min(batch, len(images))
    outcomes = dict(stream(network, problems, place.shape, attack, batch, corner=corner_of(place)))
    origin = origin_of(patch, images.shape[1:3], attack, [network])
    made = partial(patch_of, network=network, region=patch, origin=origin)

    def complete(result: Result, image: Array, target: Array) -> Result:
        noise = np.asarray(result.noise) - (0 if place.bound is None else np.asarray(image))
        asked = Asked(network, image, int(target), attack, place)
        return result._replace(patch=made(noise, int(target)), asked=asked)

    return [complete(outcomes[i], images[i], targets[i]) for i in range(len(images))]


def images_and_targets(
    network: Network, images: Any, targets: Any
) -> tuple[Float[Array, "n h w 3"], Int[Array, " n"]]:
    """Images to attack and their targets, checked, as JAX arrays.

    Raises:
        AttackError: the images are no batch of floats in [0, 1], or there are not as many targets.
        UserError: a target is no class.
    """
    found = checks.floats(images, what="the batch of images")
    if found.ndim != 4 or found.shape[-1] != 3 or not len(found):
        raise AttackError(
            f"the images have shape {list(found.shape)} instead of [n, height, width, 3]"
        )
    if np.ndim(targets) != 1 or len(targets) != len(found):
        raise AttackError(f"there are {len(found)} images; give a list of as many targets")
    return found, jnp.asarray(labels.as_ids(targets, network.categories), jnp.int32)
