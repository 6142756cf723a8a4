"""The attack on a batch: devices, compiled programs, and what a patch can reach."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from gcpatch.attacks.blending import paste
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.step import Forward, Losses, Problem, State, step
from gcpatch.interpreters.hoisting import Hoisted, hoist
from gcpatch.interpreters.incremental import Incremental, Placed, incremental
from gcpatch.interpreters.jaxpr import trace
from gcpatch.networks import Network
from gcpatch.networks.network import ArrayLike

BATCH = PartitionSpec("batch")  # the one axis of a mesh of devices


def advance(
    network: Network,
    states: State,
    problems: Problem,
    attack: Attack,
    count: int,
    reach: Incremental | None = None,
    mesh: Mesh | None = None,
    until_done: bool = False,
) -> tuple[State, Losses]:
    """`count` steps for a batch of images that are not done; the history is `[count, batch]`.

    On accelerators one program; on CPUs, where XLA's loops take more than twice as long as their
    bodies do alone, a program for a step, and with `until_done` none after the one in which an
    image is done. The states given are consumed. With a mesh of devices
    each takes its part of the batch, by the program that it would run for that part alone.
    """
    if jax.default_backend() != "cpu":
        return steps(network, states, problems, attack, count, reach, mesh)
    known, unknown = one_step(network, states, problems, attack, reach, mesh)
    residuals, history, done = known(network), [], np.array(states.done)
    for _ in range(count):
        states, losses = unknown(residuals, network, states, problems, attack)
        history.append(losses)
        if until_done and (np.asarray(states.done) != done).any():
            break
    return states, jax.tree.map(lambda *parts: np.stack(parts), *history)


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
        new, losses = step(network, state, problem, attack, forward)
        return jax.tree.map(partial(jnp.where, state.done), state, new), losses

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
def _reach(traced, corner: tuple[int, int], size: int) -> Placed:
    return incremental(_traced(*traced), corner, size)


def reach_of(
    network: Network,
    image: Float[ArrayLike, "h w 3"] | jax.ShapeDtypeStruct,
    *,
    corner: tuple[int, int],
    size: int,
    layer: str | None = None,
) -> Placed:
    """What a square patch in this place of such an image can reach of a layer.

    Args:
        network: the network.
        image: of which shape and type count.
        corner: row and column of the patch's top left pixel.
        size: its side in pixels.
        layer: the network's target layer if None.
    """
    leaves, structure = jax.tree.flatten(network)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return _reach((structure, shapes, image.shape, jnp.dtype(image.dtype), layer), corner, size)


def remember(network: Network, problem: Problem, reach: Placed) -> Problem:
    """The problem with what the incremental evaluation needs of its clean image."""
    memory = _precompute(network, problem.image, reach.program, reach.places)
    return problem._replace(memory=memory)


@partial(jax.jit, static_argnames="program")
def _precompute(network: Network, image, program: Incremental, places):
    return program.precompute(network, image, places)
