"""A step of the attack compiled for one batch, precision and way of evaluation, and timed alone.

The precisions are those of the products: `highest` is float32, `tf32` what `--precision tf32`
asks for, `bfloat16` what `--precision bfloat16` asks for, and `trunk16` a trunk whose weights and
maps are bfloat16 as they lie in memory, under a head, losses and noise of float32.
"""

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gcpatch.attacks import engine
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.step import evaluate, init_state, make_problem, step
from gcpatch.evaluation.bench import images_for, side_of
from gcpatch.interpreters.incremental import Placed
from gcpatch.networks import Network

MATMUL = {"highest": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}
PRECISIONS = (*MATMUL, "trunk16")


class Case(NamedTuple):
    """What is compiled: `side` of the patch in pixels, images at a time, steps in the program."""

    network: str
    side: int
    batch: int
    variant: str  # full or incremental
    precision: str
    steps: int


class Compiled(NamedTuple):
    """A program, its first arguments, and the seconds that compiling took."""

    case: Case
    program: Any
    weights: tuple[Any, ...]
    one: tuple[Any, Any]  # a state and a problem, which every slot gets
    attack: Attack
    seconds: float

    def batched(self) -> tuple[Any, Any]:
        """States and problems for every slot, each in memory of its own."""
        return _repeated(self.one, self.case.batch)


def attack_for(steps: int = 1_000_000) -> Attack:
    """`hide`, without an end: what is timed is steps."""
    return Attack(objective="hide", steps=steps, patience=steps)


def halved(tree: Any) -> Any:
    """A network, an image or a memory in bfloat16; integers stay."""
    return jax.tree.map(
        lambda leaf: (
            leaf.astype(jnp.bfloat16) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        ),
        tree,
    )


def forward16(half: Network, problem: Any, layer: str | None, reach: Any) -> Any:
    """As `engine.forward_of`, with a trunk in bfloat16; tiles and activations stay float32."""
    inner = engine.forward_of(half, problem._replace(image=halved(problem.image)), layer, reach)
    return lambda tile: inner(halved(tile)).astype(jnp.float32)


def reach_for(network: Network, image: Any, side: int) -> Placed:
    """What the patch of `side` pixels, top right, can reach."""
    corner = Patch(side).corner(*image.shape[:2])
    return engine.reach_of(network, image, corner=corner, size=side)


def compile_case(network: Network, case: Case) -> Compiled:
    """Lowers and compiles; nothing but one image's precomputation runs on the device."""
    how, side = attack_for(), side_of(network)
    (image,) = images_for(1, side)
    place = Patch(case.side).place(side, side)
    network = jax.device_put(network)
    half = halved(network) if case.precision == "trunk16" else None
    problem = _problem(network, image, how, placement=place)
    reach: Any = None
    if case.variant == "incremental":
        taken = problem if half is None else problem._replace(image=halved(problem.image))
        placed = reach_for(half or network, taken.image, case.side)
        taken = engine.remember(half or network, taken, placed)
        problem, reach = problem._replace(memory=taken.memory), placed.program
    one = init_state(network, problem, place.shape, how), problem
    shapes = jax.eval_shape(partial(_repeated, count=case.batch), one)
    start = time.perf_counter()
    with jax.default_matmul_precision(MATMUL.get(case.precision, "bfloat16")):
        if half is None:
            lowered = engine.steps.lower(network, *shapes, how, case.steps, reach)
        else:
            lowered = _steps16.lower(network, half, *shapes, how, count=case.steps, reach=reach)
        program = lowered.compile()
    seconds = time.perf_counter() - start
    weights = (network,) if half is None else (network, half)
    return Compiled(case, program, weights, one, how, seconds)


def _problem(network: Network, image: Any, how: Attack, *, placement: Any) -> Any:
    key = jax.random.key(0)
    return make_problem(network, image, 1, how, placement=placement, key=key)


@partial(jax.jit, static_argnames="count")
def _repeated(tree: Any, count: int) -> Any:
    return jax.vmap(lambda _: tree)(jnp.arange(count))


@partial(jax.jit, static_argnames=("count", "reach"), donate_argnums=2)
def _steps16(network: Network, half: Network, states, problems, attack, *, count, reach) -> Any:
    """`engine.steps` with a trunk in bfloat16."""

    def one(state, problem):
        forward = forward16(half, problem, attack.layer, reach)
        new, losses = step(network, state, problem, attack, forward)
        return jax.tree.map(partial(jnp.where, state.done), state, new), losses

    def all_of(states, _):
        return jax.vmap(one)(states, problems)

    return jax.lax.scan(all_of, states, length=count)


def values_of(
    network: Network, problem: Any, tile: Any, attack: Attack, forward: Any = None
) -> dict[str, Any]:
    """Of a tile: logits, activations, the target's map, and the gradient of the loss."""
    trunk, head = network.split()
    if forward is None:
        corner = problem.corner
        forward = lambda tile: trunk(engine.paste(problem.image, tile, corner))  # noqa: E731
    activations = forward(tile)
    logits, heat = attack.explainer.logits_and_map(head, activations, problem.target)
    gradient = jax.grad(evaluate, argnums=1, has_aux=True)(network, tile, problem, attack, forward)
    return {
        "logits": logits,
        "activations": activations,
        "grad_cam": heat,
        "gradient": gradient[0],
    }
