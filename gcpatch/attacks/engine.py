"""The attack on a batch: devices, compiled programs, and what a patch can reach."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from gcpatch.attacks.settings import Attack
from gcpatch.attacks.step import Losses, Problem, State, step
from gcpatch.interpreters.hoisting import Hoisted, hoist
from gcpatch.interpreters.incremental import Incremental, incremental
from gcpatch.interpreters.jaxpr import trace
from gcpatch.networks import Network

BATCH = PartitionSpec("batch")  # the one axis of a mesh of devices


def advance(
    network: Network,
    states: State,
    problems: Problem,
    attack: Attack,
    count: int,
    reach: Incremental | None = None,
    mesh: Mesh | None = None,
) -> tuple[State, Losses]:
    """`count` steps for a batch of images that are not done; the history is `[count, batch]`.

    On accelerators one program; on CPUs, where XLA's loops take more than twice as long as their
    bodies do alone, a program for a step. The states given are consumed. With a mesh of devices
    each takes its part of the batch, by the program that it would run for that part alone.
    """
    if jax.default_backend() != "cpu":
        return steps(network, states, problems, attack, count, reach, mesh)
    known, unknown = one_step(network, states, problems, attack, reach, mesh)
    residuals, history = known(network), []
    for _ in range(count):
        states, losses = unknown(residuals, network, states, problems, attack)
        history.append(losses)
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
        new, losses = step(network, state, problem, attack, reach)
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


def _trunk(network: Network, images: Float[Array, "1 h w 3"]) -> Float[Array, "1 h2 w2 c"]:
    return network.split()[0](images)


@lru_cache
def _traced(structure, leaves, shape: tuple[int, ...], dtype):
    """One jaxpr for each network, so that jitted functions meet it again."""
    return trace(_trunk, jax.tree.unflatten(structure, leaves), shape=shape, dtype=dtype)


@lru_cache(maxsize=1024)
def _reach(structure, leaves, shape, dtype, corner: tuple[int, int], size: int):
    return incremental(_traced(structure, leaves, shape, dtype), corner, size)


def reach_of(
    network: Network, shape: tuple[int, ...], dtype: Any, corner: tuple[int, int], size: int
) -> tuple[Incremental, Int[np.ndarray, "n 2"]]:
    """What a patch in this place can reach of the target layer; see `incremental`."""
    leaves, structure = jax.tree.flatten(network)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return _reach(structure, shapes, tuple(shape), jnp.dtype(dtype), corner, size)


@partial(jax.jit, static_argnames="reach")
def remember(network: Network, problem: Problem, reach: Incremental, places) -> Problem:
    """The problem with what the incremental evaluation needs of its clean image."""
    return problem._replace(memory=reach.precompute(network, problem.image, places))
