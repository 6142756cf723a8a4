"""Any number of images through a batch of slots: a slot whose image is done takes the next."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from gcpatch.attacks import (
    Attack,
    AttackError,
    Losses,
    Problem,
    State,
    advance,
    reach_of,
    remember,
    start,
)
from gcpatch.incremental import Incremental
from gcpatch.networks import Network
from gcpatch.networks.network import ArrayLike
from gcpatch.patches import Patch, paste

CHUNK = 20  # steps between two looks at which images are done


@partial(jax.jit, static_argnames="size")
def _enter(
    network: Network, states: State, problems: Problem, slot, problem: Problem, size, attack
):
    """The batch with one problem put into a slot."""
    fresh = (start(network, problem, size, attack), problem)
    return jax.tree.map(lambda old, new: old.at[slot].set(new), (states, problems), fresh)


class Finished(NamedTuple):
    """The outcome of one attack.

    Attributes:
        adversarial: the image with its best patch, aiP.
        tile: that patch as it lies in the image.
        steps: the steps taken.
        converged: whether the goal was met (with its margin) before the steps ran out.
        losses: of the best patch.
        history: the losses at every step, `[steps]` each.
    """

    adversarial: Float[np.ndarray, "h w 3"]
    tile: Float[np.ndarray, "s s 3"]
    steps: int
    converged: bool
    losses: Losses
    history: Losses


def stream(
    network: Network, problems: Iterable[Problem], size: int, attack: Attack, batch: int = 8,
    on_steps: Callable[[int], None] = lambda count: None, precision: str = "highest",
    corner: tuple[int, int] | None = None, on_batch: Callable[[int], None] = lambda batch: None,
) -> Iterator[tuple[int, Finished]]:  # fmt: skip
    """Attacks any number of images through `batch` slots; yields each as it is done.

    Where the device lacks the memory, the images in hand start anew in half as many slots.

    Args:
        network: the network to fool.
        problems: the images, one at a time (no leading axis), all of one shape.
        size: the patch's side in pixels.
        attack: how to optimise.
        batch: how many images are optimised at a time.
        on_steps: called after each chunk with the number of image-steps taken.
        corner: where every problem has its patch: then only what it reaches is evaluated. None
            where the places differ.
        on_batch: called with the number of slots when it had to shrink.
        precision: of the products while optimising, as `jax.default_matmul_precision` names it.

    Yields:
        The place of an image among the problems, and its outcome.
    """
    queue: Iterator[tuple[int, Problem]] = enumerate(problems)
    while True:
        slots = _Slots(network, size, attack, batch, corner)
        try:
            yield from slots.run(queue, on_steps, precision)
            return
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or batch == 1:
                raise
            batch //= 2
            on_batch(batch)
            queue = itertools.chain(slots.taken.values(), queue)


class _Slots:
    """A batch of attacks: where an image is done, the next one takes its slot."""

    def __init__(
        self, network: Network, size: int, attack: Attack, batch: int,
        corner: tuple[int, int] | None,
    ):  # fmt: skip
        self.network, self.size, self.attack = network, size, attack
        self.batch, self.corner = batch, corner
        self.taken: dict[int, tuple[int, Problem]] = {}
        self.histories: dict[int, list[Losses]] = {}
        self.reach: Incremental | None = None
        self.states: Any = None
        self.problems: Any = None

    def run(self, queue: Iterator[tuple[int, Problem]], on_steps, precision: str):
        """Yields each image's number and outcome."""
        while True:
            for slot in range(self.batch):
                if slot not in self.taken and (item := next(queue, None)) is not None:
                    self.taken[slot] = item
                    self._enter(slot, item[1])
            if not self.taken:
                return
            before = np.asarray(self.states.step)
            with jax.default_matmul_precision(precision):
                self.states, losses = advance(
                    self.network, self.states, self.problems, self.attack,
                    min(CHUNK, self.attack.steps), self.reach,
                )  # fmt: skip
            after, done = np.asarray(self.states.step), np.asarray(self.states.done)
            losses = jax.tree.map(np.asarray, losses)
            on_steps(int((after - before).sum()))
            for slot in list(self.taken):
                self.histories[slot].append(_rows(losses, slot, int(after[slot] - before[slot])))
                if done[slot]:
                    yield self._leave(slot)

    def _enter(self, slot: int, problem: Problem) -> None:
        self.histories[slot] = []
        if self.corner is not None:
            image = problem.image
            self.reach, places = reach_of(
                self.network, image.shape, image.dtype, self.corner, self.size
            )
            problem = remember(self.network, problem, self.reach, places)
        if self.states is None:
            fresh = (start(self.network, problem, self.size, self.attack), problem)
            idle = jax.tree.map(lambda leaf: jnp.stack([leaf] * self.batch), fresh)
            self.states, self.problems = idle[0]._replace(done=jnp.ones(self.batch, bool)), idle[1]
        self.states, self.problems = _enter(
            self.network, self.states, self.problems, slot, problem, self.size, self.attack
        )

    def _leave(self, slot: int) -> tuple[int, Finished]:
        state, problem = jax.tree.map(itemgetter(slot), (self.states, self.problems))
        owner, _ = self.taken.pop(slot)
        return owner, _finish(state, problem, self.histories.pop(slot))


def _rows(losses: Losses, slot: int, count: int) -> Losses:
    """The first `count` steps of one slot."""
    return jax.tree.map(lambda leaf: leaf[:count, slot], losses)


def _finish(state: State, problem: Problem, history: list[Losses]) -> Finished:
    return Finished(
        np.asarray(paste(problem.image, state.best_tile, problem.corner)),
        np.asarray(state.best_tile),
        int(state.step),
        bool(state.best_shortfall == 0),
        Losses(*map(float, state.best_losses)),
        jax.tree.map(lambda *parts: np.concatenate(parts), *history),
    )


def attack(
    network: Network, images: Float[ArrayLike, "n h w 3"],
    targets: Int[ArrayLike, " n"] | list[int], patch: Patch, attack: Attack, *,
    batch: int = 8, seed: int = 0,
) -> list[Finished]:  # fmt: skip
    """Attacks images: one optimised patch for each, in the order of the images.

    Args:
        network: the network to fool.
        images: RGB in [0, 1].
        targets: the class that each image shall be taken for.
        patch: the patch's size, ratio and place.
        attack: how to optimise it.
        batch: how many images are optimised at a time.
        seed: of the `random` start.

    Raises:
        AttackError: the images are no floats in [0, 1], or the targets no classes, one for each.
        PatchError: the patch does not lie inside the images.
    """
    _check(np.asarray(images), np.asarray(targets), len(network.categories))
    images, targets = jnp.asarray(images), jnp.asarray(targets, jnp.int32)
    corner = jnp.asarray(patch.corner(*images.shape[1:3]), jnp.int32)
    classify = jax.jit(lambda network, images: lax.map(network, images, batch_size=batch))
    labels = classify(network, images).argmax(-1)
    ratio = jnp.asarray(patch.ratio, images.dtype)
    keys = jax.random.split(jax.random.key(seed), len(images))
    problems = (
        Problem(image, label.astype(jnp.int32), target, ratio, corner, key)
        for image, label, target, key in zip(images, labels, targets, keys, strict=True)
    )
    place = patch.corner(*images.shape[1:3])
    outcomes = dict(
        stream(network, problems, patch.size, attack, min(batch, len(images)), corner=place)
    )
    return [outcomes[i] for i in range(len(images))]


def _check(images: np.ndarray, targets: np.ndarray, classes: int) -> None:
    if images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise AttackError(f"the images have shape {images.shape} instead of [n, height, width, 3]")
    if not np.issubdtype(images.dtype, np.floating) or images.min() < 0 or images.max() > 1:
        raise AttackError(
            f"the images are {images.dtype} from {images.min()} to {images.max()} "
            "instead of floats in [0, 1]"
        )
    if targets.shape != images.shape[:1]:
        raise AttackError(f"there are {len(images)} images but targets of shape {targets.shape}")
    if targets.min() < 0 or targets.max() >= classes:
        raise AttackError(f"the targets {targets.tolist()} are not all in 0 to {classes - 1}")
