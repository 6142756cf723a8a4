"""The attack on one image (paper, algorithm 1): losses, gradient, step, projection."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from gcpatch.attacks.blending import blend, coverage, cut, paste, with_rings
from gcpatch.attacks.objectives import ObjectiveError
from gcpatch.attacks.regions import Placement
from gcpatch.attacks.settings import Attack
from gcpatch.explainers.cam import Head, activations_of, explain_activations
from gcpatch.interpreters.incremental import Memory
from gcpatch.losses import Evidence, cross_entropy
from gcpatch.networks import Network
from gcpatch.networks.network import ArrayLike

# What a tile in its image gives at the attacked layer: evaluated in full, or what it reaches alone.
Forward = Callable[[Float[Array, "rows columns 3"]], Float[Array, "h2 w2 k"]]


class Problem(NamedTuple):
    """One image to attack. In a batch every field has a leading axis.

    `target` is None in an untargeted attack, which wants any class but `label`. `clean_heat` is the
    clean image's map of its top class, `clean_heat_of_target` that of the target, None without one.
    `bound` is the most that a pixel may change, None without a bound. `memory` is what
    `Incremental.run` needs of the image, None where it is evaluated in full; in the near field it
    is that of the image with a tile, and `clean_memory` what an exact evaluation needs. `start` is
    the noise before the first step, in pixels; None where it is `Attack.init` that says.
    """

    image: Float[Array, "h w 3"]
    label: Int[Array, ""]
    target: Int[Array, ""] | None
    ratio: Float[Array, ""] | Float[Array, "rows columns 1"]
    corner: Int[Array, "2"]
    key: PRNGKeyArray
    clean_heat: Float[Array, "h2 w2"]
    clean_heat_of_target: Float[Array, "h2 w2"] | None
    bound: Float[Array, ""] | None = None
    memory: Memory | None = None
    clean_memory: Memory | None = None
    start: Float[Array, "rows columns 3"] | None = None


class Losses(NamedTuple):
    """The losses of one evaluation; as a history, with a leading axis of steps."""

    total: Any
    cross_entropy: Any
    explanation: Any


class NearField(NamedTuple):
    """Of an attack in the near field (see below), where it stands between two exact looks.

    `tile` is the one that was last looked at, of which its memory is, `looked` the step then, and
    `refreshes` counts the looks. `waiting` says that its tile looks as if the goal were met and
    waits for one. `improved` is the step at which one last found a better tile, and `stalled` says
    that half of the steps brought none since: all further steps are exact.
    """

    tile: Float[Array, "rows columns 3"]
    looked: Int[Array, ""]
    waiting: Bool[Array, ""]
    stalled: Bool[Array, ""]
    improved: Int[Array, ""]
    refreshes: Int[Array, ""]


class State(NamedTuple):
    """An attack under way. The noise (N, eq. 4) is in normalised units, the best tile in pixels.

    `best_noise` is the noise of the best tile, `improved` the step that found it, where it counts.
    """

    noise: Float[Array, "rows columns 3"]
    optimizer: optax.OptState
    step: Int[Array, ""]
    streak: Int[Array, ""]
    done: Bool[Array, ""]
    best_tile: Float[Array, "rows columns 3"]
    best_noise: Float[Array, "rows columns 3"]
    best_shortfall: Float[Array, ""]
    best_losses: Losses
    near: NearField | None = None
    improved: Int[Array, ""] | None = None


def rival(logits: Float[Array, " classes"], label: Int[Array, ""]) -> Int[Array, ""]:
    """The most probable class but the label, which an untargeted attack is nearest to."""
    return jnp.argmax(logits.at[label].set(-jnp.inf)).astype(label.dtype)


def confidence_gap(
    logits: Float[Array, " classes"], target: Int[Array, ""], confidence: Float[Array, ""] | float
) -> Float[Array, ""]:
    """What the target's probability lacks to the top class and to `confidence`; 0 if nothing."""
    odds = jax.nn.softmax(logits)
    rival = jnp.max(odds.at[target].set(0))
    return jnp.maximum(jnp.maximum(rival, confidence) - odds[target], 0)


def shortfall(attack: Attack, evidence: Evidence, losses: Losses) -> Float[Array, ""]:
    """How far an evaluation is from the goal: exactly 0 where the attack has what it wants.

    The class counts by its `confidence_gap`, the explanation by the objective's `shortfall`; an
    objective without one is ranked by the total loss.
    """
    if attack.objective.shortfall is None:
        return losses.total
    gap = confidence_gap(evidence.logits, evidence.target, attack.confidence)
    return gap + attack.objective.shortfall(evidence)


def evaluate(
    network: Network,
    tile: Float[Array, "rows columns 3"],
    problem: Problem,
    attack: Attack,
    forward: Forward | None = None,
) -> tuple[Float[Array, ""], tuple[Losses, Float[Array, ""]]]:
    """What is minimised with this tile in the image (paper, eq. 5); beside it losses and shortfall.

    `forward` gives the layer's activations of a tile; the network's whole trunk if None.
    """
    trunk, head = network.split(attack.layer)
    image = paste(problem.image, tile, problem.corner)
    activations = trunk(image) if forward is None else forward(tile)
    covered = coverage(
        activations.shape[:2], image.shape[:2], problem.corner, tile.shape[:2], problem.ratio
    )
    return loss_from_activations(head, activations, image, tile, covered, problem, attack)


def loss_from_activations(
    head: Head,
    activations: Float[Array, "h2 w2 k"],
    image: Float[Array, "h w 3"],
    tile: Float[Array, "rows columns 3"],
    covered: Float[Array, "h2 w2"],
    problem: Problem,
    attack: Attack,
) -> tuple[Float[Array, ""], tuple[Losses, Float[Array, ""]]]:
    """What is minimised, of an adversarial image whose activations are known; see `evaluate`.

    It is the total loss, explanation + ce_weight * cross-entropy (eq. 5). With `attack.balance`
    each of the two losses is first divided by the length of its gradient by the activations, taken
    as a constant.
    """

    def both(activations):
        explain = partial(attack.explainer.logits_and_map, head, activations)
        target = problem.target
        if target is None:
            target = rival(head(activations), problem.label)
        logits, heat = explain(target)
        evidence = Evidence(
            image=image,
            tile=tile,
            logits=logits,
            heat=heat,
            coverage=with_rings(covered, attack.ring),
            target=target,
            label=problem.label,
            explain=lambda label: explain(label)[1],
            clean_heat=problem.clean_heat,
            clean_heat_of_target=problem.clean_heat_of_target,
        )
        explanation, entropy = attack.objective.loss(evidence), cross_entropy(evidence)
        if not isinstance(explanation, int | float | jax.Array) or jnp.shape(explanation) != ():
            raise ObjectiveError(f"the objective {attack.objective.name} gives no single number")
        gap = confidence_gap(logits, target, attack.confidence)
        counted = jnp.where(gap > 0, entropy, 0) if attack.ce_gate else entropy
        losses = Losses(explanation + attack.ce_weight * counted, entropy, explanation)
        pair = jnp.asarray(explanation, entropy.dtype), counted
        return pair, (losses, shortfall(attack, evidence, losses))

    (explanation, entropy), aux = both(activations)
    if attack.balance:
        _, back = jax.vjp(lambda still: both(still)[0], jax.lax.stop_gradient(activations))
        one, zero = jnp.ones_like(entropy), jnp.zeros_like(entropy)
        explanation /= _length(*back((one, zero)))
        entropy /= _length(*back((zero, one)))
    return explanation + attack.ce_weight * entropy, aux


def _length(gradient: Float[Array, "h2 w2 k"]) -> Float[Array, ""]:
    """A gradient's Euclidean length, as a constant; 1 where it is zero."""
    square = jax.lax.stop_gradient(jnp.sum(gradient**2))
    return jnp.sqrt(jnp.where(square > 0, square, 1))


def make_problem(
    network: Network,
    image: Float[ArrayLike, "h w 3"],
    target: Int[Array, ""] | int | None,
    attack: Attack,
    *,
    placement: Placement,
    key: PRNGKeyArray,
    label: Int[Array, ""] | int | None = None,
    clean_heat: Float[ArrayLike, "h2 w2"] | None = None,
    clean_heat_of_target: Float[ArrayLike, "h2 w2"] | None = None,
    start: Float[ArrayLike, "rows columns 3"] | None = None,
) -> Problem:
    """The problem to have `image` taken for `target`, or no longer for its label if that is None.

    What is not given is asked of the network.

    Args:
        network: the network to fool.
        image: RGB in [0, 1].
        target: a class, or None.
        attack: whose layer and explainer make the maps.
        placement: of the perturbation.
        key: of the `random` start.
        label: the image's class; the network's own if None.
        clean_heat: the image's map of its top class.
        clean_heat_of_target: the image's map of the target.
        start: the noise before the first step, in pixels, in place of the attack's `init`.

    Raises:
        AttackError: the attack's objective needs a target, and there is none.
    """
    image = jnp.asarray(image)
    look = partial(explain_activations, network, layer=attack.layer, explainer=attack.explainer)
    activations = cache(partial(activations_of, network, image, layer=attack.layer))
    if label is None or clean_heat is None:
        logits, heat = look(activations())
        label = logits.argmax() if label is None else label
        clean_heat = heat if clean_heat is None else clean_heat
    if target is None:
        attack.check_untargeted()
    else:
        target = jnp.asarray(target, jnp.int32)
        if clean_heat_of_target is None:
            clean_heat_of_target = look(activations(), target)[1]
    bound = placement.bound
    return Problem(
        image=image,
        label=jnp.asarray(label, jnp.int32),
        target=target,
        ratio=jnp.asarray(placement.ratio, image.dtype),
        corner=jnp.asarray(placement.corner, jnp.int32),
        key=key,
        clean_heat=jnp.asarray(clean_heat),
        clean_heat_of_target=None if target is None else jnp.asarray(clean_heat_of_target),
        bound=None if bound is None else jnp.asarray(bound, image.dtype),
        start=None if start is None else jnp.asarray(start, image.dtype),
    )


def limits(
    problem: Problem, clean: Float[Array, "r c 3"]
) -> tuple[Float[Array, "*r_c 3"], Float[Array, "*r_c 3"]]:
    """The least and the most that the noise may be, in pixels: valid, and within the bound."""
    if problem.bound is None:
        return jnp.zeros(3, clean.dtype), jnp.ones(3, clean.dtype)
    return jnp.maximum(clean - problem.bound, 0), jnp.minimum(clean + problem.bound, 1)


def init_state(network: Network, problem: Problem, shape: tuple[int, int], attack: Attack) -> State:
    """The state before the first step of a perturbation of `shape` pixels.

    One with a bound starts at the image, unless at `random` within its bound.
    """
    tile = cut(problem.image, problem.corner, shape)
    least, most = limits(problem, tile)
    if problem.start is not None:
        noise = network.normalize(jnp.clip(problem.start, least, most))
    elif attack.init == "random":
        noise = _random(network, problem, tile, problem.key)
    elif attack.init == "image" or problem.bound is not None:
        noise = network.normalize(tile)
    else:
        noise = jnp.zeros_like(tile)
    zero, worst = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, tile.dtype)
    state = State(
        noise,
        attack.transformation.init(noise),
        zero,
        zero,
        zero > 0,
        tile,
        network.normalize(tile),
        worst,
        Losses(worst, worst, worst),
        improved=zero if attack.restart else None,
    )
    if attack.reach == "exact":
        return state
    tile, _ = seen_of(network, state, problem, attack)
    return state._replace(near=NearField(tile, zero, zero > 0, zero > 0, zero, zero))


def _random(
    network: Network, problem: Problem, clean: Float[Array, "r c 3"], key: PRNGKeyArray
) -> Float[Array, "r c 3"]:
    """Noise of random pixels, within the bound if there is one."""
    pixels = jax.random.uniform(key, clean.shape, clean.dtype, *limits(problem, clean))
    return network.normalize(pixels)


def seen_of(
    network: Network, state: State, problem: Problem, attack: Attack
) -> tuple[Float[Array, "rows columns 3"], Float[Array, "rows columns 3"]]:
    """What a step sees: the patch's pixels in the image, and the noise that gives them."""
    noise = state.noise
    clean = cut(problem.image, problem.corner, (noise.shape[0], noise.shape[1]))
    tile = blend(clean, network.denormalize(noise), problem.ratio)
    if attack.init == "clean":
        tile = jnp.where(state.step == 0, clean, tile)
        noise = jnp.where(state.step == 0, network.normalize(clean), noise)
    return tile, noise


def step(
    network: Network,
    state: State,
    problem: Problem,
    attack: Attack,
    forward: Forward | None = None,
) -> tuple[State, Losses]:
    """One step for one image: gradient, update of N alone, projection (algorithm 1, 12-25).

    With `attack.restart` the next may begin anew. For `forward` see `evaluate`.
    """
    tile, seen = seen_of(network, state, problem, attack)
    gradient, (losses, lacking) = jax.grad(evaluate, argnums=1, has_aux=True)(
        network, tile, problem, attack, forward
    )
    by_noise = gradient * problem.ratio * jnp.asarray(network.std, gradient.dtype)
    updates, optimizer = attack.transformation.update(by_noise, state.optimizer, state.noise)
    noise = optax.apply_updates(state.noise, updates)
    if attack.project or problem.bound is not None:
        clean = cut(problem.image, problem.corner, (noise.shape[0], noise.shape[1]))
        noise = jnp.clip(noise, *map(network.normalize, limits(problem, clean)))
    streak = jnp.where(lacking == 0, state.streak + 1, 0)
    count = state.step + 1
    broken = ~jnp.isfinite(losses.total)
    done = (streak >= attack.patience) | (count >= attack.steps) | broken
    moved = state._replace(noise=noise, optimizer=optimizer, step=count, streak=streak, done=done)
    best = keep_best(moved, tile, seen, lacking, losses)
    return (_restarted(network, state, best, problem, attack) if attack.restart else best), losses


def _restarted(
    network: Network, before: State, after: State, problem: Problem, attack: Attack
) -> State:
    """The state after a step, with random noise and a fresh optimiser where it has stalled.

    That is once at most. What was best so far stays, and so does the number of steps.
    """
    assert after.improved is not None
    better = after.best_shortfall < before.best_shortfall
    improved = jnp.where(better, after.step, after.improved)
    clean = cut(problem.image, problem.corner, (after.noise.shape[0], after.noise.shape[1]))
    noise = _random(network, problem, clean, jax.random.fold_in(problem.key, 1))
    fresh = after._replace(
        noise=noise,
        optimizer=attack.transformation.init(noise),
        streak=jnp.zeros_like(after.streak),
        improved=after.step,
    )
    stalled = 2 * (after.step - improved) >= attack.steps
    return jax.tree.map(partial(jnp.where, stalled), fresh, after._replace(improved=improved))


def keep_best(
    state: State,
    tile: Float[Array, "rows columns 3"],
    noise: Float[Array, "rows columns 3"],
    lacking: Float[Array, ""],
    losses: Losses,
) -> State:
    """The state with this tile as its best, where it lacks less to the goal than the one so far."""
    found = dict(best_tile=tile, best_noise=noise, best_shortfall=lacking, best_losses=losses)
    best = jax.tree.map(partial(jnp.where, lacking < state.best_shortfall), found, best_of(state))
    return state._replace(**best)


def best_of(state: State) -> dict[str, Any]:
    """What a state has of its best tile."""
    return {name: value for name, value in state._asdict().items() if name.startswith("best_")}


# ---- the near field
#
# A step in the near field computes the patch's own cells and a few around them; what lies beyond is
# that of the image at the last exact look. Directly after it values are exact, and gradients leave
# out what the patch does further away. So a step may move the patch, but never end the attack: a
# tile that looks as if the goal were met waits for an exact look at it, which computes all that the
# patch reaches, renews what the steps do not, and alone decides what is done and which tile is the
# best. Where half of the steps brought no better one, what was left out may be what is missing: the
# rest of the steps is exact.


def field_of(state: State) -> NearField:
    """The near field of a state that has one."""
    assert state.near is not None
    return state.near


def held(state: State) -> Bool[Array, "*batch"]:
    """Whether a state moves no more, or not before the next look."""
    near = field_of(state)
    return state.done | near.waiting | near.stalled


def near_step(
    network: Network, state: State, problem: Problem, attack: Attack, forward: Forward
) -> tuple[State, Losses]:
    """One step for one image; where its tile looks done and was not looked at, it waits instead.

    A tile that was is always moved on, so that no rounding can hold it for ever.
    """
    moved, losses = step(network, state, problem, attack, forward)
    near, looks_done = field_of(state), moved.streak > 0
    was_looked_at = (near.looked == state.step) & (near.refreshes > 0)
    moved = moved._replace(
        streak=jnp.where(looks_done, state.streak, 0),
        done=(moved.step >= attack.steps) | ~jnp.isfinite(losses.total),
        **best_of(state),
    )
    waits = state._replace(near=near._replace(waiting=jnp.ones((), bool)))
    return jax.tree.map(partial(jnp.where, looks_done & ~was_looked_at), waits, moved), losses


def show(network: Network, state: State, problem: Problem, attack: Attack) -> State:
    """The state with its tile to be looked at."""
    tile, _ = seen_of(network, state, problem, attack)
    return state._replace(near=field_of(state)._replace(tile=tile))


def judge(
    network: Network,
    state: State,
    problem: Problem,
    attack: Attack,
    activations: Float[Array, "h2 w2 k"],
) -> tuple[State, Losses]:
    """The state after an exact look at the tile that it shows, and that tile's losses.

    The tile's activations are given. Where it ends the attack, the look counts as its last step.
    """
    _, head = network.split(attack.layer)
    near, (_, seen) = field_of(state), seen_of(network, state, problem, attack)
    image = paste(problem.image, near.tile, problem.corner)
    covered = coverage(
        activations.shape[:2], image.shape[:2], problem.corner, near.tile.shape[:2], problem.ratio
    )
    _, (losses, lacking) = loss_from_activations(
        head, activations, image, near.tile, covered, problem, attack
    )
    streak = jnp.where(lacking == 0, state.streak + 1, 0)
    ends = (streak >= attack.patience) & ~state.done
    done, count = state.done | ends, state.step + ends
    improved = jnp.where(lacking < state.best_shortfall, state.step, near.improved)
    judged = near._replace(
        looked=count,
        waiting=jnp.zeros((), bool),
        stalled=~done & (2 * (state.step - improved) >= attack.steps),
        improved=improved,
        refreshes=near.refreshes + 1,
    )
    after = state._replace(streak=streak, step=count, done=done, near=judged)
    return keep_best(after, near.tile, seen, lacking, losses), losses
