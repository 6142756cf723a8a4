"""The attack on a batch: devices, compiled programs, and what a patch can reach."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float

from gcpatch.attacks.blending import paste
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.step import (
    Forward,
    Losses,
    Problem,
    State,
    field_of,
    held,
    judge,
    near_step,
    show,
    step,
)
from gcpatch.interpreters import work
from gcpatch.interpreters.hoisting import Hoisted, hoist
from gcpatch.interpreters.incremental import Incremental, Memory, Placed, incremental
from gcpatch.interpreters.jaxpr import trace
from gcpatch.networks import Network
from gcpatch.networks.network import ArrayLike

BATCH = PartitionSpec("batch")  # the one axis of a mesh of devices
MARGIN = 2  # cells of a near field whose reach is left to gcpatch
EVERY = (5, 10, 20)  # steps between two exact looks, of which the first is taken where
SHARE = 0.1  # of the cost of the steps between them is not exceeded by a look


def advance(
    network: Network,
    states: State,
    problems: Problem,
    attack: Attack,
    count: int,
    reach: Incremental | None = None,
    mesh: Mesh | None = None,
    until_held: bool = False,
) -> tuple[State, Losses]:
    """`count` steps for a batch of images that are not done; the history is `[count, batch]`.

    On accelerators one program; on CPUs, where XLA's loops take more than twice as long as their
    bodies do alone, a program for a step, and with `until_held` none after the one in which an
    image is done, or waits for an exact look. The states given are consumed. With a mesh of devices
    each takes its part of the batch, by the program that it would run for that part alone.
    """
    if jax.default_backend() != "cpu":
        return steps(network, states, problems, attack, count, reach, mesh)
    known, unknown = one_step(network, states, problems, attack, reach, mesh)
    hold = _hold(reach)
    residuals, history, before = known(network), [], np.array(hold(states))
    for _ in range(count):
        states, losses = unknown(residuals, network, states, problems, attack)
        history.append(losses)
        if until_held and (np.asarray(hold(states)) != before).any():
            break
    return states, jax.tree.map(lambda *parts: np.stack(parts), *history)


def _hold(reach: Incremental | None) -> Callable[[State], Bool[Array, "*batch"]]:
    """Which states are to stay as they are."""
    return (lambda state: state.done) if reach is None or reach.exact else held


def one_step(
    network: Network,
    states: State,
    problems: Problem,
    attack: Attack,
    reach: Incremental | None,
    mesh: Mesh | None = None,
) -> Hoisted:
    """A step for a batch, compiled; what depends on the weights alone in a program of its own."""
    whole = jax.tree.map(_shape, (network, attack))
    share = jax.tree.map(partial(_shape, parts=mesh.size if mesh else 1), (states, problems))
    leaves, structure = jax.tree.flatten((whole, share))
    return _one_step(structure, tuple(leaves), reach, mesh)


def _shape(leaf: Any, parts: int = 1) -> jax.ShapeDtypeStruct:
    """What of an argument, or of one of its equal parts, a program depends on: not its devices."""
    kind = jax.typeof(leaf)
    shape = tuple(n if axis else n // parts for axis, n in enumerate(kind.shape))
    return jax.ShapeDtypeStruct(shape, kind.dtype, weak_type=kind.weak_type)


@lru_cache
def _one_step(structure, leaves, reach, mesh) -> Hoisted:
    (network, attack), (states, problems) = jax.tree.unflatten(structure, leaves)
    step = partial(_steps, count=None, reach=reach)
    known, unknown = hoist(step, network, states, problems, attack)
    unknown = _on(mesh, unknown, BATCH, weights=2)
    return Hoisted(jax.jit(known), jax.jit(unknown, donate_argnums=2))


def _steps(
    network: Network, states: State, problems: Problem, attack: Attack, count: int | None, reach
) -> tuple[State, Losses]:
    """`count` steps for a batch; one, without an axis of steps, if None."""

    def one(state: State, problem: Problem) -> tuple[State, Losses]:
        forward = forward_of(network, problem, attack.layer, reach)
        move = step if reach is None or reach.exact else near_step
        new, losses = move(network, state, problem, attack, forward)
        return jax.tree.map(partial(jnp.where, _hold(reach)(state)), state, new), losses

    def all_of(states: State, _) -> tuple[State, Losses]:
        return jax.vmap(one)(states, problems)

    return all_of(states, None) if count is None else lax.scan(all_of, states, length=count)


@partial(jax.jit, static_argnames=("count", "reach", "mesh"), donate_argnums=1)
def steps(
    network: Network,
    states: State,
    problems: Problem,
    attack: Attack,
    count: int,
    reach,
    mesh: Mesh | None = None,
) -> tuple[State, Losses]:
    """`count` steps for a batch in one program."""
    several = _on(
        mesh, partial(_steps, count=count, reach=reach), (BATCH, PartitionSpec(None, "batch"))
    )
    return several(network, states, problems, attack)


def _on(mesh: Mesh | None, program: Callable, out_specs: Any, weights: int = 1) -> Callable:
    """A program of weights, states, problems and an attack, for each device's part of a batch."""
    if mesh is None:
        return program
    whole = PartitionSpec()
    return jax.shard_map(
        program,
        mesh=mesh,
        in_specs=(*[whole] * weights, BATCH, BATCH, whole),
        out_specs=out_specs,
        check_vma=False,
    )


def forward_of(
    network: Network, problem: Problem, layer: str | None, reach: Incremental | None
) -> Forward:
    """What a tile gives at a layer: the trunk of the whole image, or only what it can reach."""
    if reach is not None and problem.memory is not None:
        return partial(reach.run, network, problem.memory)
    trunk, _ = network.split(layer)
    return lambda tile: trunk(paste(problem.image, tile, problem.corner))


def _trunk(
    network: Network, images: Float[Array, "1 h w 3"], *, layer: str | None
) -> Float[Array, "1 h2 w2 c"]:
    return network.split(layer)[0](images)


@lru_cache
def _traced(structure, leaves, shape: tuple[int, ...], dtype, layer: str | None):
    """One jaxpr for each network and layer, so that jitted functions meet it again."""
    network = jax.tree.unflatten(structure, leaves)
    return trace(partial(_trunk, layer=layer), network, shape=shape, dtype=dtype)


@lru_cache(maxsize=1024)
def _reach(traced, corner: tuple[int, int], size: int, margin: int | None) -> Placed:
    return incremental(_traced(*traced), corner, size, margin)


def reach_of(
    network: Network,
    image: Float[ArrayLike, "h w 3"] | jax.ShapeDtypeStruct,
    *,
    corner: tuple[int, int],
    size: int,
    layer: str | None = None,
    margin: int | None = None,
) -> Placed:
    """What a square patch in this place of such an image can reach of a layer.

    Args:
        network: the network.
        image: of which shape and type count.
        corner: row and column of the patch's top left pixel.
        size: its side in pixels.
        layer: the network's target layer if None.
        margin: how many cells around the patch's own are followed, None for no limit.
    """
    return _reach(_traced_as(network, image, layer), corner, size, margin)


def _traced_as(network: Network, image: Any, layer: str | None) -> tuple:
    """The arguments of `_traced`."""
    leaves, structure = jax.tree.flatten(network)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return structure, shapes, image.shape, jnp.dtype(image.dtype), layer


class Reach(NamedTuple):
    """How far steps follow what a patch changes.

    Attributes:
        placed: the evaluation.
        margin: how many cells around the patch's own it follows, None for no limit.
        every: the most steps between two exact looks, None where all steps are exact.
        wide: the exact evaluation, where that of the steps is not.
    """

    placed: Placed
    margin: int | None = None
    every: int | None = None
    wide: Placed | None = None


def choose_reach(
    network: Network,
    image: Float[ArrayLike, "h w 3"] | jax.ShapeDtypeStruct,
    *,
    corner: tuple[int, int],
    size: int,
    attack: Attack,
) -> Reach:
    """The reach that an attack asks for: exact, so many cells, or `near`, chosen by the cost.

    It depends on shapes alone, so that all images of a run have the same. Arguments as `reach_of`.
    """
    traced = _traced_as(network, image, attack.layer)
    if attack.reach == "exact":
        return Reach(_reach(traced, corner, size, None))
    return _near(traced, corner, size, MARGIN if attack.reach == "near" else attack.reach)


@lru_cache
def _near(traced, corner: tuple[int, int], size: int, margin: int) -> Reach:
    placed, wide = (_reach(traced, corner, size, cells) for cells in (margin, None))
    if placed.program.exact:
        return Reach(placed)
    look, forward = (work_of(traced, each, size) for each in (wide, placed))
    cheap = (every for every in EVERY if look <= SHARE * every * 2 * forward)
    return Reach(placed, margin, next(cheap, EVERY[-1]), wide)


def work_of(traced: tuple, placed: Placed, size: int) -> int:
    """Multiply-adds of what a patch of `size` pixels reaches, forward."""
    structure, shapes, shape, dtype, _ = traced
    network = jax.tree.unflatten(structure, shapes)
    image, tile = (jax.ShapeDtypeStruct(each, dtype) for each in (shape, (size, size, 3)))
    memory = jax.eval_shape(placed.program.precompute, network, image, placed.places).memory
    return work.multiply_adds(placed.program.run, network, memory, tile)


def remember(network: Network, problem: Problem, reach: Placed) -> Problem:
    """The problem with what the incremental evaluation needs of its clean image."""
    memory = _precompute(network, problem.image, reach.program, reach.places)
    return problem._replace(memory=memory)


@partial(jax.jit, static_argnames="program")
def _precompute(network: Network, image, program: Incremental, places):
    return program.precompute(network, image, places).memory


def prepare(network: Network, problem: Problem, reach: Reach) -> Problem:
    """The problem with what its steps need of its clean image; `renew` gives a near field more."""
    if reach.wide is None:
        return remember(network, problem, reach.placed)
    clean = remember(network, problem, reach.wide).memory
    blank = _blank(network, problem.image, *reach.placed)
    return problem._replace(memory=blank, clean_memory=clean)


@partial(jax.jit, static_argnames="program")
def _blank(network: Network, image, program: Incremental, places) -> Memory:
    """Zeros in place of a memory."""
    return jax.tree.map(jnp.zeros_like, program.precompute(network, image, places).memory)


Renewed = tuple[Float[Array, "batch h2 w2 k"], Memory]


def renew(
    network: Network, states: State, problems: Problem, reach: Reach, mesh: Mesh | None = None
) -> Renewed:
    """The activations of the tiles that a batch shows, exact, and the near field's memory of them.

    One program makes them from a tile, whenever that is shown, so that they are the same bit for
    bit.
    """
    assert reach.wide is not None
    places = reach.placed.places, reach.wide.places
    programs = reach.placed.program, reach.wide.program
    return _renew(network, places, states, problems, programs, mesh)


@partial(jax.jit, static_argnames=("programs", "mesh"))
def _renew(network, places, states: State, problems: Problem, programs, mesh) -> Renewed:
    program, exact = programs

    def one(weights, tile, clean, _):
        network, (mine, others) = weights
        return program.precompute_within(Placed(exact, others), network, clean, tile, mine)

    renewed = _on(mesh, jax.vmap(one, (None, 0, 0, None)), BATCH)
    tiles = field_of(states).tile
    return tuple(renewed((network, places), tiles, problems.clean_memory, None))


def look(
    network: Network,
    states: State,
    problems: Problem,
    attack: Attack,
    reach: Reach,
    mesh: Mesh | None = None,
) -> tuple[State, Memory, Losses]:
    """An exact look at a batch's tiles: what `judge` says of them, and the memory around them."""
    states = _shown(network, states, problems, attack, mesh)
    activations, memory = renew(network, states, problems, reach, mesh)
    states, losses = _judged(network, states, (problems, activations), attack, mesh)
    return states, memory, losses


@partial(jax.jit, static_argnames="mesh")
def _shown(network, states: State, problems: Problem, attack: Attack, mesh) -> State:
    return _on(mesh, jax.vmap(show, (None, 0, 0, None)), BATCH)(network, states, problems, attack)


@partial(jax.jit, static_argnames="mesh")
def _judged(network, states: State, given, attack: Attack, mesh) -> tuple[State, Losses]:
    def one(network, state, given, attack):
        problem, activations = given
        return judge(network, state, problem, attack, activations)

    return _on(mesh, jax.vmap(one, (None, 0, 0, None)), BATCH)(network, states, given, attack)
