"""The attack (paper, algorithm 1): optimise a patch so that class and explanation are fooled.

`step` is the algorithm for one image; `advance` runs it for a batch in one jitted program.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from gcpatch.errors import UserError
from gcpatch.explainers import Head, logits_and_grad_cam, look
from gcpatch.hoisting import Hoisted, hoist
from gcpatch.incremental import Incremental, Memory, incremental, trace
from gcpatch.losses import OBJECTIVES, Evidence, Objective, cross_entropy, energy
from gcpatch.networks import Network
from gcpatch.networks.network import ArrayLike
from gcpatch.patches import Place, blend, coverage, cut, paste

OPTIMIZERS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "sign": optax.sign_sgd,
    "sgd": optax.sgd,
    "momentum": partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
}
LEARNING_RATES = {"sign": 0.05, "sgd": 50.0, "momentum": 5.0, "adam": 0.1}
NUMBERS = ("steps", "learning_rate", "ce_weight", "confidence", "patience")
STARTS = ("mean", "image", "random", "clean")

BATCH = PartitionSpec("batch")  # the one axis of a mesh of devices

# What counts as fooled, and the margin that the attack adds so that 8 bits do not undo it.
HIDDEN, HIGHLIGHTED, MARGIN = 0.05, 0.5, 0.02


class AttackError(UserError):
    """An attack that cannot be: a setting is unknown or out of range."""


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Attack:
    """How a patch is optimised. In a jitted function its numbers are data, the rest is static.

    Attributes:
        objective: a name in `losses.OBJECTIVES`, or a function of `Evidence` to minimise.
        steps: the most steps to take for an image.
        optimizer: a name in `OPTIMIZERS`; it works in the network's normalised units, as [16].
        learning_rate: its step; `LEARNING_RATES[optimizer]` if None.
        ce_weight: the weight of the cross-entropy beside the objective (alpha in eq. 5).
        ce_gate: whether the cross-entropy counts only while `doubt` is over 0.
        confidence: the probability of the target that is enough; 0 asks for the top class alone.
        init: the patch before the first step: the `mean` colour, the `image` itself, `random`
            pixels, or `clean`: the mean colour, but the first step sees the clean image, as [16].
        project: whether the patch is kept to valid pixels; the image always is.
        patience: stop once the goal is met for this many steps in a row.

    Raises:
        AttackError: a value is unknown or out of range.
    """

    objective: str | Objective = "hide"
    steps: int = 1000
    optimizer: str = "adam"
    learning_rate: float | None = None
    ce_weight: float = 0.05
    ce_gate: bool = True
    confidence: float = 0.9
    init: str = "mean"
    project: bool = True
    patience: int = 1

    def __post_init__(self):
        for name, value, choices in (
            ("objective", self.objective, OBJECTIVES),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("init", self.init, STARTS),
        ):
            if isinstance(value, str) and value not in choices:
                raise AttackError(
                    f"there is no {name} {value!r}; choose one of {', '.join(choices)}"
                )
        for name in ("steps", "patience"):
            if getattr(self, name) < 1:
                raise AttackError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise AttackError(f"the learning rate is {self.learning_rate}; it must be over 0")
        if not 0 <= self.confidence < 1:
            raise AttackError(f"the confidence is {self.confidence}; it must be in [0, 1)")
        if not self.ce_weight >= 0:
            raise AttackError(f"ce_weight is {self.ce_weight}; it must be at least 0")

    def tree_flatten(self):
        """The numbers, and what is static."""
        values = vars(self) | {"learning_rate": self.rate}
        return [values[name] for name in NUMBERS], tuple(
            (name, value) for name, value in values.items() if name not in NUMBERS
        )

    @classmethod
    def tree_unflatten(cls, static, numbers):
        """An attack whose numbers JAX traces; they were checked before."""
        attack = object.__new__(cls)
        vars(attack).update(static, **dict(zip(NUMBERS, numbers, strict=True)))
        return attack

    @property
    def loss(self) -> Objective:
        """The objective as a function."""
        return OBJECTIVES[self.objective] if isinstance(self.objective, str) else self.objective

    @property
    def rate(self) -> Any:
        """The learning rate, given or the optimiser's own."""
        return LEARNING_RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    @property
    def transformation(self) -> optax.GradientTransformation:
        """The optimiser with its learning rate."""
        return OPTIMIZERS[self.optimizer](self.rate)


class Problem(NamedTuple):
    """One image to attack. In a batch every field has a leading axis.

    `heats` are the clean image's maps of its top class and of the target. `bound` is the most that
    a pixel may change, None without a bound. `memory` is what `Incremental.step` needs of the
    image, None where it is evaluated in full.
    """

    image: Float[Array, "h w 3"]
    label: Int[Array, ""]
    target: Int[Array, ""]
    ratio: Float[Array, ""] | Float[Array, "rows columns 1"]
    corner: Int[Array, "2"]
    key: PRNGKeyArray
    heats: Float[Array, "2 h2 w2"]
    bound: Float[Array, ""] | None = None
    memory: Memory | None = None


class Losses(NamedTuple):
    """The losses of one evaluation; as a history, with a leading axis of steps."""

    total: Any
    cross_entropy: Any
    explanation: Any


class State(NamedTuple):
    """An attack under way. The noise (N, eq. 4) is in normalised units, the best tile in pixels."""

    noise: Float[Array, "rows columns 3"]
    optimizer: optax.OptState
    step: Int[Array, ""]
    streak: Int[Array, ""]
    done: Bool[Array, ""]
    best_tile: Float[Array, "rows columns 3"]
    best_shortfall: Float[Array, ""]
    best_losses: Losses


def doubt(
    logits: Float[Array, " classes"], target: Int[Array, ""], confidence: Float[Array, ""] | float
) -> Float[Array, ""]:
    """What the target's probability lacks to the top class and to `confidence`; 0 if nothing."""
    odds = jax.nn.softmax(logits)
    rival = jnp.max(odds.at[target].set(0))
    return jnp.maximum(jnp.maximum(rival, confidence) - odds[target], 0)


def shortfall(attack: Attack, evidence: Evidence, losses: Losses) -> Float[Array, ""]:
    """How far an evaluation is from the goal: exactly 0 where the attack has what it wants.

    The class counts by its `doubt`, the explanation by the energy that it lacks to its threshold
    and margin. Objectives without such a goal are ranked by their total loss, and end where [16]
    ends: at a loss of exactly 0.
    """
    unsure = doubt(evidence.logits, evidence.target, attack.confidence)
    share = energy(evidence.heat, evidence.coverage)
    covered = evidence.coverage.ravel()[evidence.heat.argmax()] >= 0.5
    match attack.objective:
        case "classify":
            return unsure
        case "hide":
            return unsure + jnp.maximum(share - (HIDDEN - MARGIN), 0)
        case "highlight":
            return unsure + jnp.maximum(HIGHLIGHTED + MARGIN - share, 0) + 0.1 * ~covered
        case _:
            return losses.total


def evaluate(
    network: Network,
    tile: Float[Array, "rows columns 3"],
    problem: Problem,
    attack: Attack,
    reach: Incremental | None = None,
) -> tuple[Float[Array, ""], tuple[Losses, Float[Array, ""]]]:
    """The total loss with this tile in the image (paper, eq. 5); beside it losses and shortfall.

    With `reach` only what the tile can reach is evaluated, with the same result.
    """
    trunk, head = network.split()
    image = paste(problem.image, tile, problem.corner)
    if reach is not None and problem.memory is not None:
        activations = reach.step(network, problem.memory, tile)
    else:
        activations = trunk(image)
    covered = coverage(
        activations.shape[:2], image.shape[:2], problem.corner, tile.shape[:2], problem.ratio
    )
    return weigh(head, activations, image, tile, covered, problem, attack)


def weigh(
    head: Head,
    activations: Float[Array, "h2 w2 k"],
    image: Float[Array, "h w 3"],
    tile: Float[Array, "rows columns 3"],
    covered: Float[Array, "h2 w2"],
    problem: Problem,
    attack: Attack,
) -> tuple[Float[Array, ""], tuple[Losses, Float[Array, ""]]]:
    """The total loss of an adversarial image whose activations are known; see `evaluate`."""
    logits, heat = logits_and_grad_cam(head, activations, problem.target)
    evidence = Evidence(
        image, tile, logits, heat, covered, problem.target, problem.label,
        lambda label: logits_and_grad_cam(head, activations, label)[1], *problem.heats,
    )  # fmt: skip
    explanation, entropy = attack.loss(evidence), cross_entropy(evidence)
    wanted = doubt(logits, problem.target, attack.confidence) > 0 if attack.ce_gate else True
    total = explanation + attack.ce_weight * jnp.where(wanted, entropy, 0)
    losses = Losses(total, entropy, explanation)
    return total, (losses, shortfall(attack, evidence, losses))


def pose(
    network: Network, image: Float[ArrayLike, "h w 3"], target: Int[Array, ""] | int,
    place: Place, key: PRNGKeyArray, label: Int[Array, ""] | int = -1,
    heats: Float[ArrayLike, "2 h2 w2"] | None = None,
) -> Problem:  # fmt: skip
    """The problem to have `image` taken for `target`.

    Args:
        network: the network to fool.
        image: RGB in [0, 1].
        target: a class.
        place: of the perturbation.
        key: of the `random` start.
        label: the image's class; the network's if negative.
        heats: the image's maps of its top class and of the target, where they are known.
    """
    image, target = jnp.asarray(image), jnp.asarray(target, jnp.int32)
    if heats is None or label < 0:
        logits, heat = look(network, image, -1)
        label = jnp.where(jnp.asarray(label) < 0, logits.argmax(), label)
        heats = jnp.stack([heat, look(network, image, target)[1]])
    return Problem(
        image, jnp.asarray(label, jnp.int32), target, jnp.asarray(place.ratio, image.dtype),
        jnp.asarray(place.corner, jnp.int32), key, jnp.asarray(heats),
        None if place.bound is None else jnp.asarray(place.bound, image.dtype),
    )  # fmt: skip


def limits(
    problem: Problem, clean: Float[Array, "r c 3"]
) -> tuple[Float[Array, "*r_c 3"], Float[Array, "*r_c 3"]]:
    """The least and the most that the noise may be, in pixels: valid, and within the bound."""
    if problem.bound is None:
        return jnp.zeros(3, clean.dtype), jnp.ones(3, clean.dtype)
    return jnp.maximum(clean - problem.bound, 0), jnp.minimum(clean + problem.bound, 1)


def start(network: Network, problem: Problem, shape: tuple[int, int], attack: Attack) -> State:
    """The state before the first step of a perturbation of `shape` pixels.

    One with a bound starts at the image, unless at `random` within its bound.
    """
    tile = cut(problem.image, problem.corner, shape)
    if attack.init == "random":
        least, most = limits(problem, tile)
        noise = network.normalize(
            jax.random.uniform(problem.key, tile.shape, tile.dtype, least, most)
        )
    elif attack.init == "image" or problem.bound is not None:
        noise = network.normalize(tile)
    else:
        noise = jnp.zeros_like(tile)
    zero, worst = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, tile.dtype)
    return State(
        noise, attack.transformation.init(noise), zero, zero, zero > 0,
        tile, worst, Losses(worst, worst, worst),
    )  # fmt: skip


def step(
    network: Network, state: State, problem: Problem, attack: Attack,
    reach: Incremental | None = None,
) -> tuple[State, Losses]:  # fmt: skip
    """One step for one image: gradient, update of N alone, projection (algorithm 1, 12-25)."""
    clean = cut(problem.image, problem.corner, (state.noise.shape[0], state.noise.shape[1]))
    tile = blend(clean, network.denormalize(state.noise), problem.ratio)
    if attack.init == "clean":
        tile = jnp.where(state.step == 0, clean, tile)
    gradient, (losses, lacking) = jax.grad(evaluate, argnums=1, has_aux=True)(
        network, tile, problem, attack, reach
    )
    by_noise = gradient * problem.ratio * jnp.asarray(network.std, gradient.dtype)
    updates, optimizer = attack.transformation.update(by_noise, state.optimizer, state.noise)
    noise = optax.apply_updates(state.noise, updates)
    if attack.project or problem.bound is not None:
        noise = jnp.clip(noise, *map(network.normalize, limits(problem, clean)))
    streak = jnp.where(lacking == 0, state.streak + 1, 0)
    count = state.step + 1
    broken = ~jnp.isfinite(losses.total)
    done = (streak >= attack.patience) | (count >= attack.steps) | broken
    best, best_lacking, best_losses = jax.tree.map(
        partial(jnp.where, lacking < state.best_shortfall),
        (tile, lacking, losses), (state.best_tile, state.best_shortfall, state.best_losses),
    )  # fmt: skip
    return State(noise, optimizer, count, streak, done, best, best_lacking, best_losses), losses


def advance(
    network: Network, states: State, problems: Problem, attack: Attack, count: int,
    reach: Incremental | None = None, mesh: Mesh | None = None,
) -> tuple[State, Losses]:  # fmt: skip
    """`count` steps for a batch of images that are not done; the history is `[count, batch]`.

    On accelerators one program; on CPUs, where XLA's loops take more than twice as long as their
    bodies do alone, a program for a step. The states given are consumed. With a mesh of devices
    each takes its part of the batch, by the program that it would run for that part alone.
    """
    if jax.default_backend() != "cpu":
        return steps(network, states, problems, attack, count, reach, mesh)
    early, late = one_step(network, states, problems, attack, reach, mesh)
    found, history = early(network), []
    for _ in range(count):
        states, losses = late(found, network, states, problems, attack)
        history.append(losses)
    return states, jax.tree.map(lambda *parts: np.stack(parts), *history)


def one_step(
    network: Network, states: State, problems: Problem, attack: Attack, reach: Incremental | None,
    mesh: Mesh | None = None,
) -> Hoisted:  # fmt: skip
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
    early, late = hoist(step, network, states, problems, attack)
    late = _on(mesh, late, BATCH, weights=2)
    return Hoisted(jax.jit(early), jax.jit(late, donate_argnums=2))


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
    network: Network, states: State, problems: Problem, attack: Attack, count: int, reach,
    mesh: Mesh | None = None,
) -> tuple[State, Losses]:  # fmt: skip
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
        program, mesh=mesh, in_specs=(*[whole] * weights, BATCH, BATCH, whole),
        out_specs=out_specs,
        check_vma=False,
    )  # fmt: skip


def _trunk(network: Network, images: Float[Array, "1 h w 3"]) -> Float[Array, "1 h2 w2 c"]:
    return network.split()[0](images)


@lru_cache
def _traced(structure, leaves, shape: tuple[int, ...], dtype):
    """One jaxpr for each network, so that jitted functions meet it again."""
    return trace(_trunk, jax.tree.unflatten(structure, leaves), shape, dtype)


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
    return problem._replace(memory=reach.prepare(network, problem.image, places))
