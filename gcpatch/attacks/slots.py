"""Any number of images through a batch of slots: a slot whose image is done takes the next."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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

from gcpatch.attacks.engine import (
    BATCH,
    Reach,
    advance,
    choose_reach,
    look,
    prepare,
    renew,
)
from gcpatch.attacks.patches import AdversarialPatch, Library, origin_of, patch_of
from gcpatch.attacks.regions import Placement, Region
from gcpatch.attacks.settings import Attack, AttackError
from gcpatch.attacks.step import (
    Losses,
    NearField,
    Problem,
    State,
    field_of,
    held,
    init_state,
    make_problem,
)
from gcpatch.data.labels import UNTARGETED, as_ids
from gcpatch.explainers import checks
from gcpatch.interpreters.incremental import Memory
from gcpatch.networks import Network
from gcpatch.networks.network import ArrayLike

Targets = Int[ArrayLike, " n"] | Sequence[int | str]
CHUNK = 20  # most steps between two looks at which images are done


@dataclass(eq=False)
class Asked:
    """What an attack was asked, by which its result can be judged and drawn.

    Attributes:
        network: that was attacked.
        image: as it was.
        target: the class that it shall be taken for; None where any but the label will do.
        label: its class, which an untargeted attack leads away from; the network's own if None.
        attack: how it was attacked.
        place: where the perturbation lies.
        answer: what was found when the result was first shown, which is remembered.
    """

    network: Network
    image: Float[Array, "h w 3"]
    target: int | None
    label: int | None
    attack: Attack
    place: Placement
    answer: Any = None


class Reached(NamedTuple):
    """How far an attack's steps followed what its patch changes.

    Attributes:
        mode: `exact` or `near`.
        margin: in the near field, cells around the patch's own.
        every: likewise, the most steps between two exact looks, which refresh what lies beyond.
        refreshes: likewise, how many there were.
        stalled: likewise, whether half of the steps brought nothing, so that the others were exact.
    """

    mode: str = "exact"
    margin: int | None = None
    every: int | None = None
    refreshes: int = 0
    stalled: bool = False


class Result(NamedTuple):
    """The outcome of one attack, which a notebook shows as a panel.

    Attributes:
        adversarial: the image with its best patch, aiP.
        tile: that patch as it lies in the image.
        steps: the steps taken.
        converged: whether the goal was met (with its margin) before the steps ran out.
        losses: of the best patch.
        history: the losses at every step, `[steps]` each; the last may be no finite number, where
            the attack had to end. In the near field those of steps are nearly exact, and that of
            a last one which met the goal is exact.
        noise: the best patch's pixels before they are blended (N, eq. 4).
        patch: the best patch as an object, which `gcpatch.attack` gives.
        asked: what the attack was asked, which `gcpatch.attack` gives.
        reach: how far the steps followed what the patch changes.
    """

    adversarial: Float[np.ndarray, "h w 3"]
    tile: Float[np.ndarray, "rows columns 3"]
    steps: int
    converged: bool
    losses: Losses
    history: Losses
    noise: Float[np.ndarray, "rows columns 3"] | None = None
    patch: AdversarialPatch | None = None
    reach: Reached = Reached()
    asked: Asked | None = None

    def __repr__(self) -> str:
        if self.asked is None:
            return f"Result(converged={self.converged}, steps={self.steps})"
        return self._shown(self.asked).line

    def _repr_png_(self) -> bytes | None:
        return None if self.asked is None else self._shown(self.asked).png()

    def _shown(self, asked: Asked) -> Any:
        """The verdict and the pictures, which are above: attacks know nothing of reports."""
        return resolve_name("gcpatch.runs.outcome:shown")(self, asked)


Finished = Result  # its name in 0.1.0


class InProgress(NamedTuple):
    """An attack that has begun: its problem, its state, and its losses so far, `[steps]` each."""

    problem: Problem
    state: State
    history: Losses


Queue = Iterator[tuple[int, Problem | InProgress]]
Changed = tuple[State, Memory, Losses]  # of a batch: its states, memory of the near field, losses
Change = Callable[..., Changed]  # of a network, states, problems and a mesh


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
    on_defer: Callable[[int, InProgress], None] | None = None,
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
        on_defer: called with the place of an image whose attack has stalled for half of its steps,
            and the attack so far, when its slot is given to the next image; it may be taken up at
            the end of the problems. If None every image keeps its slot, but for those that stall
            in the near field: they are kept here until all others are done.

    Yields:
        The place of an image among the problems, and its outcome.

    Raises:
        AttackError: the attack is to stay in a near field, and there is no `corner`.
    """
    if corner is None and attack.reach != "exact":
        raise AttackError(
            f"the reach is {attack.reach!r}, but only a square patch has a near field; leave it out"
        )
    aside: deque[tuple[int, InProgress]] = deque()  # what stalled in the near field
    keep = None if attack.reach == "exact" else lambda *entry: aside.append(entry)

    def run(stalled: bool, queue: Queue) -> Iterator[tuple[int, Result]]:
        nonlocal batch
        while True:
            slots = Slots(network, shape, attack, batch, corner, devices, stalled)
            try:
                defer = on_defer or (None if stalled else keep)
                yield from slots.run(queue, on_steps, on_chunk, precision, defer)
                aside.extend(slots.underway().items())
                return
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or batch == 1:
                    raise
                batch //= 2
                on_batch(batch)
                queue = itertools.chain(slots.taken.values(), queue)

    def taken_up() -> Queue:
        while aside:
            yield aside.popleft()

    for stalled, queue in itertools.groupby(enumerate(problems), _is_stalled):
        late = taken_up() if stalled else ()
        yield from run(stalled, itertools.chain(late, queue))
    if aside:
        yield from run(True, taken_up())


def _is_stalled(entry: tuple[int, Problem | InProgress]) -> bool:
    """Whether an attack stalled in the near field, so that the rest of its steps is exact."""
    near = entry[1].state.near if isinstance(entry[1], InProgress) else None
    return near is not None and bool(near.stalled)


class Slots:
    """A batch of attacks: where an image is done, the next one takes its slot.

    All that are `stalled`, whose steps are exact whatever the attack's reach, or none.
    """

    def __init__(
        self,
        network: Network,
        shape: tuple[int, int],
        attack: Attack,
        batch: int,
        corner: tuple[int, int] | None,
        devices: Sequence[jax.Device] | None,
        stalled: bool,
    ):
        self.network, self.shape, self.attack, self.corner = network, shape, attack, corner
        self.stalled = stalled
        self.mesh = Mesh(np.asarray(devices), ("batch",)) if devices else None
        self.count = batch * len(devices or [None])
        self.weights = self._place(network, PartitionSpec())
        self.taken: dict[int, tuple[int, Problem | InProgress]] = {}
        self.histories: dict[int, list[Losses]] = {}
        self.improved: dict[int, tuple[float, int]] = {}  # a slot's best shortfall, and its step
        self.reach: Reach | None = None
        self.stale: set[int] = set()  # slots of images whose near field's memory is to be made
        self.states: Any = None
        self.problems: Any = None

    def run(
        self,
        queue: Queue,
        on_steps,
        on_chunk,
        precision: str,
        on_defer=None,
    ) -> Iterator[tuple[int, Result]]:
        """Yields each image's number and outcome.

        Only what stalled in the near field, and did so when nothing was left to take its slot, is
        still under way at the end.
        """
        while True:
            free = [slot for slot in range(self.count) if slot not in self.taken]
            for slot in free + (self._to_defer() if on_defer else []):
                if (item := next(queue, None)) is None:
                    break
                if slot in self.taken:
                    on_defer(*self._defer(slot))
                self._enter(slot, *item, precision)
            if len(self._left_by_near_field()) == len(self.taken):
                return
            before = start = np.asarray(self.states.step)
            with jax.default_matmul_precision(precision):
                parts = self._advance()
            for after, losses in parts:
                for slot in self.taken:
                    self.histories[slot].append(_rows(losses, slot, int(after[slot] - start[slot])))
                start = after
            on_steps(int((start - before).sum()))
            done = np.asarray(self.states.done)
            for slot in [slot for slot in self.taken if done[slot]]:
                yield self._leave(slot)
            on_chunk(self)

    def underway(self) -> dict[int, InProgress]:
        """The attacks in the slots, by the place of their images among the problems."""
        states = jax.tree.map(np.asarray, self.states)
        return {
            place: InProgress(_problem(entry), _row(states, slot), _joined(self.histories[slot]))
            for slot, (place, entry) in self.taken.items()
        }

    def _left_by_near_field(self) -> list[int]:
        """The slots of images that stalled in the near field, and do not move in it any more."""
        if not (self.taken and self.reach and self.reach.every):
            return []
        stalled = np.asarray(self.states.near.stalled)
        return [slot for slot in self.taken if stalled[slot]]

    def _to_defer(self) -> list[int]:
        """The slots of images whose best shortfall is that of half of their steps ago.

        When an exact attack is interrupted does not change where it leads, so that this may depend
        on where its chunks end, and on when it was taken up. In the near field the states say it.
        """
        if not self.taken or (self.reach and self.reach.every):
            return self._left_by_near_field()
        best, steps = np.asarray(self.states.best_shortfall), np.asarray(self.states.step)
        for slot in self.taken:
            if slot not in self.improved or best[slot] < self.improved[slot][0]:
                self.improved[slot] = best[slot], steps[slot]
        half = self.attack.steps / 2
        return [slot for slot in self.taken if steps[slot] - self.improved[slot][1] >= half]

    def _defer(self, slot: int) -> tuple[int, InProgress]:
        place, entry = self.taken.pop(slot)
        state = jax.tree.map(np.asarray, _take(self.states, slot))
        return place, InProgress(_problem(entry), state, _joined(self.histories.pop(slot)))

    def _advance(self) -> list[tuple[np.ndarray, Losses]]:
        """A chunk of steps, and in the near field exact looks behind them.

        Of each the slots' steps by then, and losses with an axis of steps.
        """
        every = self.reach and self.reach.every
        if self.stale:
            self._on_slots(self.stale, self._renewed)
            self.stale = set()
        self.states, losses = advance(
            self.weights,
            self.states,
            self.problems,
            self.attack,
            min(every - int(self._since_looks().max()) if every else CHUNK, self.attack.steps),
            self.reach and self.reach.placed.program,
            self.mesh,
            until_held=True,
        )
        parts = [(np.asarray(self.states.step), jax.tree.map(np.asarray, losses))]
        if every and (slots := self._to_look_at(every)):
            losses = self._on_slots(slots, self._looked)
            looked = jax.tree.map(lambda leaf: np.asarray(leaf)[None], losses)
            parts.append((np.asarray(self.states.step), looked))
        return parts

    def _since_looks(self) -> Int[np.ndarray, " slots"]:
        """The slots' steps since their last exact looks; 0 where they move no more."""
        near = field_of(self.states)
        steps = np.asarray(self.states.step - near.looked)
        return np.where(np.asarray(self.states.done | near.stalled), 0, steps)

    def _to_look_at(self, every: int) -> set[int]:
        """The slots whose tiles are due for an exact look: after so many steps, or at the end."""
        near = field_of(self.states)
        ends = np.asarray(held(self.states) & ~near.stalled)
        due = ends | (self._since_looks() >= every)
        return {slot for slot in self.taken if due[slot]}

    def _on_slots(self, slots: set[int], change: Change) -> Losses:
        """Changes what some slots show and renews their memory; the losses that were found.

        A CPU takes them one by one, which costs no more; an accelerator all slots at once. An
        image's memory comes from the same program whether it was taken up or never left.
        """
        if jax.default_backend() != "cpu":
            states, memory, losses = change(self.weights, self.states, self.problems, self.mesh)
            chosen, old = (
                np.isin(np.arange(self.count), list(slots)),
                (self.states, self.problems.memory),
            )
            self.states, memory = _chosen(chosen, (states, memory), old)
            self.problems = self.problems._replace(memory=memory)
            return losses
        found = jax.tree.map(lambda leaf: np.zeros(self.count, leaf.dtype), self.states.best_losses)
        for slot in slots:
            problems = self.problems._replace(key=None, memory=None)  # which are not asked for
            mine = jax.device_get(_alone((self.states, problems), slot))
            states, memory, losses = change(self.network, *mine)
            batch, one = (self.states, self.problems.memory), _row((states, memory), 0)
            self.states, memory = _put(batch, slot, one, self.mesh)
            self.problems = self.problems._replace(memory=memory)
            for all_of, leaf in zip(found, losses, strict=True):
                all_of[slot] = leaf[0]
        return found

    def _renewed(self, network: Network, states: State, problems: Problem, mesh=None) -> Changed:
        """The memory of the tiles that the states show."""
        assert self.reach is not None
        _, memory = renew(network, states, problems, self.reach, mesh)
        return states, memory, states.best_losses

    def _looked(self, network: Network, states: State, problems: Problem, mesh=None) -> Changed:
        """An exact look at the tiles that the states have now."""
        assert self.reach is not None
        return look(network, states, problems, self.attack, self.reach, mesh)

    def _enter(self, slot: int, place: int, entry: Problem | InProgress, precision: str) -> None:
        problem, state, history = entry if isinstance(entry, InProgress) else (entry, None, None)
        self.taken[slot] = place, entry
        self.improved.pop(slot, None)
        self.histories[slot] = [] if history is None else [history]
        if state is None:
            state = _begin(self.network, problem, self.shape, self.attack)
        if self.corner is not None:
            exact = replace(self.attack, reach="exact")
            self.reach = self._reach(problem, exact if self.stalled else self.attack)
            with jax.default_matmul_precision(precision):
                problem = prepare(self.network, problem, self.reach)
            if self.reach.every:
                self.stale.add(slot)
        problem = problem._replace(start=None)
        if self.states is None:
            idle = jax.tree.map(lambda leaf: jnp.stack([leaf] * self.count), (state, problem))
            self.states, self.problems = self._place(idle, BATCH)
            self.states = self.states._replace(done=jnp.ones_like(self.states.done))
        self.states, self.problems = _put(
            (self.states, self.problems), slot, (state, problem), self.mesh
        )

    def _leave(self, slot: int) -> tuple[int, Result]:
        place, entry = self.taken.pop(slot)
        problem, history = _problem(entry), self.histories.pop(slot)
        state = _take(self.states, slot)
        reach = None if self.corner is None else self._reach(problem, self.attack)
        return place, _finish(self.network, state, problem, history, reach)

    def _reach(self, problem: Problem, attack: Attack) -> Reach:
        assert self.corner is not None
        return choose_reach(
            self.network, problem.image, corner=self.corner, size=self.shape[0], attack=attack
        )

    def _place(self, tree: Any, spec: PartitionSpec) -> Any:
        return jax.device_put(tree, NamedSharding(self.mesh, spec)) if self.mesh else tree


def _problem(entry: Problem | InProgress) -> Problem:
    return entry.problem if isinstance(entry, InProgress) else entry


_begin = jax.jit(init_state, static_argnames="shape")
_chosen = jax.jit(
    jax.vmap(lambda new, one, other: jax.tree.map(partial(jnp.where, new), one, other))
)
_take = jax.jit(lambda tree, slot: jax.tree.map(itemgetter(slot), tree))
_alone = jax.jit(lambda tree, slot: jax.tree.map(lambda leaf: leaf[slot][None], tree))


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


def _finish(
    network: Network, state: State, problem: Problem, history: list[Losses], reach: Reach | None
) -> Result:
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
        reach=_reached(state.near, reach),
    )


def _reached(near: NearField | None, reach: Reach | None) -> Reached:
    if near is None or reach is None or reach.every is None:
        return Reached()
    return Reached("near", reach.margin, reach.every, int(near.refreshes), bool(near.stalled))


def corner_of(place: Placement) -> tuple[int, int] | None:
    """The corner of a square patch, beyond whose reach nothing is evaluated; None of all else."""
    return place.corner if np.ndim(place.ratio) == 0 else None


def attack(
    network: Network,
    images: Float[ArrayLike, "n h w 3"],
    targets: Targets | None,
    patch: Region,
    attack: Attack,
    *,
    labels: Targets | None = None,
    batch: int = 8,
    seed: int = 0,
    library: Library | None = None,
) -> list[Result]:
    """Attacks images: one optimised perturbation for each, in the order of the images.

    Args:
        network: the network to fool.
        images: RGB in [0, 1].
        targets: the class that each image shall be taken for, by ID or name. None is an untargeted
            attack: any class but the label will do, and the explanation is that of the class then
            seen.
        patch: where it lies: a `Patch`, or a `Frame`, a `Mask`, or the whole image `Bounded`.
        attack: how to optimise it.
        labels: the class that each image has; what the network takes it for if None.
        batch: how many images are optimised at a time.
        seed: of the `random` start.
        library: patches from which the images start, each from its target's.

    Raises:
        UserError: the images are no floats in [0, 1], or the targets no classes, one for each.
        AttackError: the objective, or the library, needs targets, and there are none.
        LibraryError: the library lacks a target, or is of other classes or shapes.
        PatchError: it does not lie inside the images, or its settings are out of range.
    """
    images = _batch(images)
    if targets is None:
        attack.check_untargeted(library)
    wanted = _ids(network, targets, len(images), "target")
    known = _ids(network, labels, len(images), "label")
    place = patch.place(*images.shape[1:3])
    keys = jax.random.split(jax.random.key(seed), len(images))
    if library is not None:
        library.check_starts(network, patch, images.shape[1:3], wanted)
    asked = [
        Asked(network, image, target, label, attack, place)
        for image, target, label in zip(images, wanted, known, strict=True)
    ]
    problems = (
        make_problem(
            network,
            one.image,
            one.target,
            attack,
            placement=place,
            key=key,
            label=one.label,
            start=None if library is None else library[one.target].start(one.image),
        )
        for one, key in zip(asked, keys, strict=True)
    )
    batch = min(batch, len(images))
    outcomes = dict(stream(network, problems, place.shape, attack, batch, corner=corner_of(place)))
    more = {"mode": UNTARGETED} if targets is None else {}
    origin = origin_of(patch, images.shape[1:3], attack, [network], **more)
    made = partial(patch_of, network=network, region=patch, origin=origin)

    def complete(result: Result, one: Asked) -> Result:
        noise = np.asarray(result.noise) - (0 if place.bound is None else np.asarray(one.image))
        return result._replace(patch=made(noise, one.target), asked=one)

    return [complete(outcomes[i], one) for i, one in enumerate(asked)]


def images_and_targets(
    network: Network, images: Any, targets: Any
) -> tuple[Float[Array, "n h w 3"], Int[Array, " n"]]:
    """Images to attack and their targets, checked, as JAX arrays.

    Raises:
        AttackError: the images are no batch of floats in [0, 1], or there are not as many targets.
        UserError: a target is no class.
    """
    found = _batch(images)
    return found, jnp.asarray(_ids(network, targets, len(found), "target"), jnp.int32)


def _batch(images: Any) -> Float[Array, "n h w 3"]:
    """Images to attack; AttackError where they are no batch of floats in [0, 1]."""
    found = checks.floats(images, what="the batch of images")
    if found.ndim != 4 or found.shape[-1] != 3 or not len(found):
        raise AttackError(
            f"the images have shape {list(found.shape)} instead of [n, height, width, 3]"
        )
    return found


def _ids(network: Network, classes: Any, count: int, what: str) -> list[Any]:
    """A class for each of `count` images, by its ID; None for each where none are given.

    Raises:
        AttackError: there are not as many.
        UserError: one is no class.
    """
    if classes is None:
        return [None] * count
    if np.ndim(classes) != 1 or len(classes) != count:
        raise AttackError(f"there are {count} images; give a list of as many {what}s")
    return as_ids(classes, network.categories, what).tolist()
