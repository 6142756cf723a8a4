from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tinies import FLAT

from gcpatch.attacks import engine, settings, slots
from gcpatch.attacks.blending import coverage, cut, paste
from gcpatch.attacks.engine import advance
from gcpatch.attacks.objectives import HIDDEN, HIGHLIGHTED, MARGIN
from gcpatch.attacks.patches import Library
from gcpatch.attacks.regions import Patch, PatchError
from gcpatch.attacks.settings import OPTIMIZERS, Attack, AttackError
from gcpatch.attacks.slots import attack, stream
from gcpatch.attacks.step import (
    Losses,
    Problem,
    confidence_gap,
    evaluate,
    init_state,
    loss_from_activations,
    rival,
    shortfall,
    step,
)
from gcpatch.errors import UserError
from gcpatch.explainers.cam import grad_cam
from gcpatch.losses import Evidence, energy, hide
from gcpatch.networks import random

MEAN, STD = np.asarray([0.485, 0.456, 0.406]), np.asarray([0.229, 0.224, 0.225])
SIDE, SIZE = 32, 10  # of images and patches for `tiny`
SMALL = 2  # of a patch for `flat`


def pixels(*shape, seed=0, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape).astype(dtype))


def problem(image, target=0, ratio=1.0, corner=(0, 0), label=1, seed=0):
    return Problem(
        image,
        jnp.asarray(label, jnp.int32),
        None if target is None else jnp.asarray(target, jnp.int32),
        jnp.asarray(ratio, image.dtype),
        jnp.asarray(corner, jnp.int32),
        jax.random.key(seed),
        jnp.zeros((1, 1), image.dtype),
        jnp.zeros((1, 1), image.dtype),
    )


def flat_problem(seed=0, **options):
    return problem(pixels(FLAT, FLAT, 3, seed=seed), **options)


def batched(network, problems, size, how):
    """The states before the first step, and the problems, with a leading axis."""
    states = [init_state(network, one, (size, size), how) for one in problems]
    stack = partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
    return stack(*states), stack(*problems)


plain = partial(Attack, balance=False, ce_weight=0.05)  # eq. 5 as it stands, for values by hand


def cross_entropy_of(network, image, target):
    return float(-jax.nn.log_softmax(network(jnp.asarray(image)))[target])


def assert_same(ours, theirs, **tolerance):
    """Equal leaf by leaf, bit for bit where no tolerance is given."""
    exactly, nearly = np.testing.assert_array_equal, np.testing.assert_allclose
    check = partial(nearly, **tolerance) if tolerance else exactly
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(check, ours, theirs)


# --- the settings ------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"objective": "shine"},
            "no objective 'shine'; choose one of hide, highlight, classify, p",
        ),
        ({"optimizer": "lion"}, "no optimizer 'lion'; choose one of sign, sgd, momentum, adam"),
        ({"init": "black"}, "no init 'black'; choose one of mean, image, random"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"patience": 0}, "patience is 0; it must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be over 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"confidence": 1.0}, "confidence is 1.0; it must be at least 0 and below 1"),
        ({"confidence": -0.1}, "confidence is -0.1"),
        ({"confidence": float("nan")}, "confidence is nan"),
        ({"ce_weight": -1.0}, "ce_weight is -1.0; it must be at least 0"),
        ({"ce_weight": float("nan")}, "ce_weight is nan"),
        ({"restart": True, "reach": 2}, "restart is True and the reach is 2; only with the exact"),
        ({"steps": True}, "steps is True; it must be a whole number"),
        ({"ring": False}, "ring is False; it must be a whole number"),
    ],
)
def test_an_attack_that_cannot_be(options, message):
    with pytest.raises(AttackError, match=message):
        Attack(**options)


def test_an_attack_is_a_frozen_value():
    assert Attack(steps=3) == Attack(steps=3)
    assert hash(Attack(steps=3)) == hash(Attack(steps=3))
    with pytest.raises(AttributeError):
        Attack().steps = 3


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_has_a_learning_rate(optimizer):
    assert settings.LEARNING_RATES[optimizer] > 0
    assert Attack(optimizer=optimizer).transformation.init(jnp.zeros(3)) is not None


# --- the goal ----------------------------------------------------------------


@pytest.mark.parametrize(
    "odds, target, confidence, expected",
    [
        ((0.5, 0.3, 0.2), 0, 0.0, 0),
        ((0.5, 0.3, 0.2), 0, 0.5 - 1e-6, 0),
        ((0.5, 0.3, 0.2), 0, 0.9, 0.4),
        ((0.5, 0.3, 0.2), 1, 0.0, 0.2),
        ((0.5, 0.3, 0.2), 1, 0.4, 0.2),
        ((0.5, 0.3, 0.2), 2, 0.6, 0.4),
    ],
)
def test_doubt(odds, target, confidence, expected):
    logits = 7 + jnp.log(jnp.asarray(odds))
    np.testing.assert_allclose(
        confidence_gap(logits, jnp.asarray(target), confidence), expected, atol=1e-6
    )


def goal(objective, *, sure, share, peak_in_patch=True):
    """The shortfall where `share` of the heat is on a patch over the two left cells of four."""
    heat = np.asarray([[share, 0.0], [(1 - share) / 2, (1 - share) / 2]])
    if not peak_in_patch:
        heat = np.asarray([[share / 4] * 4, [1 - share, 0, 0, 0]])
    covered = np.zeros(heat.shape)
    covered[0] = 1
    evidence = Evidence(
        jnp.zeros((4, 4, 3)),
        jnp.zeros((2, 2, 3)),
        jnp.asarray([9.0, 0.0] if sure else [0.0, 0.0]),
        jnp.asarray(heat, jnp.float32),
        jnp.asarray(covered, jnp.float32),
        jnp.asarray(0),
        jnp.asarray(1),
        lambda label: heat,
        heat,
        heat,
    )
    losses = Losses(jnp.asarray(0.75), jnp.asarray(0.5), jnp.asarray(0.25))
    return float(shortfall(Attack(objective=objective, confidence=0.9), evidence, losses))


def test_the_goal_of_classify_is_the_class():
    assert goal("classify", sure=True, share=0.5) == 0
    np.testing.assert_allclose(goal("classify", sure=False, share=0.5), 0.4, rtol=1e-6)


def test_the_goal_of_hide_is_a_map_that_leaves_the_patch():
    assert goal("hide", sure=True, share=0.0) == 0
    assert goal("hide", sure=True, share=HIDDEN - MARGIN - 1e-3) == 0
    lacking = 0.5 - (HIDDEN - MARGIN)
    np.testing.assert_allclose(goal("hide", sure=True, share=0.5), lacking, rtol=1e-5)
    np.testing.assert_allclose(goal("hide", sure=False, share=0.0), 0.4, rtol=1e-5)


def test_the_goal_of_highlight_is_a_map_on_the_patch_with_its_peak():
    assert goal("highlight", sure=True, share=HIGHLIGHTED + MARGIN + 1e-3) == 0
    lacking = HIGHLIGHTED + MARGIN - 0.4
    np.testing.assert_allclose(goal("highlight", sure=True, share=0.4), lacking, rtol=1e-5)
    np.testing.assert_allclose(goal("highlight", sure=False, share=0.4), 0.4 + lacking, rtol=1e-5)
    scattered = goal("highlight", sure=True, share=HIGHLIGHTED + MARGIN + 1e-3, peak_in_patch=False)
    np.testing.assert_allclose(scattered, 0.1, rtol=1e-5)


@pytest.mark.parametrize("objective", ["paper", "subramanya", lambda evidence: jnp.zeros(())])
def test_the_goal_of_other_objectives_is_a_loss_of_zero(objective):
    assert goal(objective, sure=True, share=0.0) == 0.75


# --- one evaluation ----------------------------------------------------------


def test_evidence(flat):
    seen = {}

    def look(evidence):
        seen.update(evidence._asdict())
        return evidence.logits[0]

    one = flat_problem(target=2, corner=(3, 1), label=1)
    tile = pixels(SMALL, SMALL, 3, seed=8)
    total, (losses, _) = evaluate(flat, tile, one, plain(objective=look, ce_weight=0.0))
    image = one.image.at[3:5, 1:3].set(tile)
    logits = flat(image)
    np.testing.assert_array_equal(seen["image"], image)
    np.testing.assert_array_equal(seen["tile"], tile)
    np.testing.assert_allclose(seen["logits"], logits, rtol=1e-6)
    np.testing.assert_allclose(seen["heat"], grad_cam(flat, image, 2), atol=1e-7)
    assert seen["heat"].max() > 0
    covered = np.zeros((FLAT, FLAT))
    covered[3:5, 1:3] = 1
    np.testing.assert_array_equal(seen["coverage"], covered)
    assert (int(seen["target"]), int(seen["label"])) == (2, 1)
    assert total == losses.total == losses.explanation == logits[0]


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("sure", [True, False])
def test_the_cross_entropy_s_gate(flat, gate, sure):
    one = flat_problem()
    tile = cut(one.image, one.corner, (SMALL, SMALL))
    odds = np.asarray(jax.nn.softmax(flat(one.image)))
    target = odds.argmax() if sure else odds.argmin()
    one = one._replace(target=jnp.asarray(target, jnp.int32))
    how = plain(
        objective=lambda evidence: jnp.asarray(2.0), ce_weight=0.25, ce_gate=gate, confidence=0.0
    )
    total, (losses, _) = evaluate(flat, tile, one, how)
    np.testing.assert_allclose(losses.cross_entropy, -np.log(odds[target]), rtol=1e-5)
    counted = 0 if gate and sure else 0.25 * -np.log(odds[target])
    np.testing.assert_allclose([total, losses.total], 2 + counted, rtol=1e-6)
    assert losses.explanation == 2


def test_the_gate_stays_open_below_the_confidence(flat):
    one = flat_problem()
    odds = np.asarray(jax.nn.softmax(flat(one.image)))
    one = one._replace(target=jnp.asarray(odds.argmax(), jnp.int32))
    total, _ = evaluate(
        flat,
        cut(one.image, one.corner, (SMALL, SMALL)),
        one,
        plain(objective="classify", ce_weight=0.25, confidence=float(odds.max()) + 1e-3),
    )
    np.testing.assert_allclose(total, 0.25 * -np.log(odds.max()), rtol=1e-5)


# --- without a target --------------------------------------------------------


@pytest.mark.parametrize(
    "logits, label, expected", [((3, 1, 2), 0, 2), ((3, 1, 2), 2, 0), ((5, 5, 1), 0, 1)]
)
def test_the_rival_is_the_best_other_class(logits, label, expected):
    assert rival(jnp.asarray(logits, jnp.float32), jnp.asarray(label)) == expected


@pytest.mark.parametrize("objective", ["hide", "highlight", "classify"])
def test_an_untargeted_step_is_one_towards_the_rival_of_that_moment(flat, objective):
    """Which need not be the clean image's runner-up, nor the same class at every step."""
    how, side, rivals = Attack(objective=objective, init="random"), FLAT - 1, []
    compiled = jax.jit(step)
    for seed in range(6):  # patches of one image
        one = flat_problem(target=None, label=0)
        one = one._replace(key=jax.random.key(seed), clean_heat_of_target=None)
        state = init_state(flat, one, (side, side), how)
        image = paste(one.image, flat.denormalize(state.noise), one.corner)
        rivals.append(1 + int(flat(image)[1:].argmax()))
        towards = one._replace(target=jnp.asarray(rivals[-1], jnp.int32))
        ours, expected = (compiled(flat, state, each, how) for each in (one, towards))
        assert_same(ours, expected, rtol=1e-5, atol=1e-7)
    assert set(rivals) == {1, 2}


def test_an_untargeted_goal_is_a_sure_other_class(flat):
    one = flat_problem(target=None)._replace(clean_heat_of_target=None)
    tile = cut(one.image, one.corner, (SMALL, SMALL))
    odds = np.asarray(jax.nn.softmax(flat(one.image))).tolist()
    first, second, _ = np.argsort(np.negative(odds)).tolist()

    def lacking(label, confidence):
        problem = one._replace(label=jnp.asarray(label, jnp.int32))
        how = Attack(objective="classify", confidence=confidence)
        return float(evaluate(flat, tile, problem, how)[1][1])

    sure, next_to_it = odds[first], odds[second]
    assert lacking(second, 0.0) == lacking(second, sure - 1e-3) == 0
    assert lacking(second, sure + 1e-3) == pytest.approx(1e-3, rel=1e-2)
    assert lacking(first, 0.0) == pytest.approx(sure - next_to_it, rel=1e-4)


def test_untargeted_attacks_of_a_batch(tiny):
    """Each away from its own label, by what the patch reaches, as if alone and in full."""
    images, how = images_of(3), Attack(objective="classify", steps=30, confidence=0.5)
    tops = [int(tiny(image).argmax()) for image in images]
    results = attack(tiny, images, None, Patch(SIZE), how, batch=2)
    for image, top, result in zip(images, tops, results, strict=True):
        odds = np.asarray(jax.nn.softmax(tiny(result.adversarial)))
        assert result.converged == (odds.argmax() != top and odds.max() >= 0.5)
        assert result.patch.target is None and "untargeted" in repr(result.patch)
        problem = slots.make_problem(
            tiny, image, None, how, placement=Patch(SIZE).place(SIDE, SIDE), key=jax.random.key(0)
        )
        ((_, alone),) = stream(tiny, [problem], (SIZE, SIZE), how, 1)
        np.testing.assert_allclose(alone.history.total[:3], result.history.total[:3], rtol=1e-3)
    assert any(result.converged for result in results)
    others = [(top + 1) % 3 for top in tops]
    given = attack(tiny, images, None, Patch(SIZE), how, labels=others, batch=3)
    assert [result.steps for result in given if result.converged] != []
    for other, result in zip(others, given, strict=True):
        assert not result.converged or int(tiny(result.adversarial).argmax()) != other


def test_what_needs_a_target_is_refused_without_one(flat):
    run = partial(attack, flat, images_of(1, FLAT), None, Patch(SMALL))
    with pytest.raises(AttackError, match=r"swap needs a target, .* choose one of hide, highlight"):
        run(Attack(objective="swap"))
    made = attack(flat, images_of(1, FLAT), [0], Patch(SMALL), plain(steps=1))[0].patch
    with pytest.raises(AttackError, match="a library has a patch for each target"):
        run(plain(), library=Library([made]))
    with pytest.raises(AttackError, match="1 images; give a list of as many labels"):
        run(plain(), labels=[0, 1])
    with pytest.raises(UserError, match="label 0: there is no class 'lynx'"):
        run(plain(), labels=["lynx"])


# --- one step ----------------------------------------------------------------

PULL = np.random.default_rng(4).normal(size=(SMALL, SMALL, 3)).astype(np.float32)


def pull(evidence):
    return jnp.sum(PULL * evidence.tile)


def _sign(gradient, count):
    return count * np.sign(gradient)


def _sgd(gradient, count):
    return count * gradient


def _momentum(gradient, count):
    velocity, moved = 0, 0
    for _ in range(count):
        velocity = 0.9 * velocity + gradient
        moved = moved + velocity
    return moved


def _adam(gradient, count):
    first, second, moved = 0, 0, 0
    for t in range(1, count + 1):
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        moved = moved + first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
    return moved


@pytest.mark.parametrize("ratio", [1.0, 0.3])
@pytest.mark.parametrize(
    "optimizer, moved", [("sign", _sign), ("sgd", _sgd), ("momentum", _momentum), ("adam", _adam)]
)
def test_steps_against_numpy(flat, optimizer, moved, ratio):
    """The loss is linear in the tile, so that the gradient by N is known at every step."""
    how = plain(objective=pull, optimizer=optimizer, learning_rate=0.25, ce_weight=0.0)
    one = flat_problem(ratio=ratio, corner=(1, 3))
    state = init_state(flat, one, (SMALL, SMALL), how)
    for count in (1, 2, 3):
        state, losses = step(flat, state, one, how)
        expected = -0.25 * moved(PULL * ratio * STD, count)
        np.testing.assert_allclose(state.noise, expected, rtol=2e-5, atol=1e-6)
        assert state.step == count and not state.done
    before = -0.25 * moved(PULL * ratio * STD, 2) * STD + MEAN
    seen = (1 - ratio) * one.image[1:3, 3:5] + ratio * before
    np.testing.assert_allclose(losses.total, (PULL * seen).sum(), rtol=1e-4)


def test_the_patch_is_kept_to_valid_pixels(flat):
    """And the gradient passes the bound straight through: a step is as long as ever."""
    how = plain(objective=pull, optimizer="sign", learning_rate=10.0, ce_weight=0.0)
    one = flat_problem()
    state = init_state(flat, one, (SMALL, SMALL), how)
    for _ in range(2):
        state, _ = step(flat, state, one, how)
    np.testing.assert_allclose(flat.denormalize(state.noise), PULL < 0, atol=1e-6)


def test_without_projection_the_patch_is_free_and_the_image_is_valid(flat):
    how = plain(objective=pull, optimizer="sign", learning_rate=10.0, ce_weight=0.0, project=False)
    one = flat_problem(ratio=0.3)
    state = init_state(flat, one, (SMALL, SMALL), how)
    for _ in range(3):
        state, _ = step(flat, state, one, how)
    np.testing.assert_allclose(state.noise, -30 * np.sign(PULL), rtol=1e-6)
    np.testing.assert_array_equal(state.best_tile, PULL < 0)


@pytest.mark.parametrize("init", ["mean", "image", "random", "clean"])
def test_the_start(flat, init):
    one = flat_problem(3, corner=(2, 4))
    other = one._replace(key=jax.random.key(1))
    how = plain(objective=pull, init=init, optimizer="sign", learning_rate=0.125, ce_weight=0.0)
    state = init_state(flat, one, (SMALL, SMALL), how)
    tile = one.image[2:4, 4:6]
    if init == "image":
        np.testing.assert_allclose(flat.denormalize(state.noise), tile, atol=1e-6)
    elif init == "random":
        drawn = flat.denormalize(state.noise)
        assert 0 <= drawn.min() + 1e-6 and drawn.max() <= 1 + 1e-6 and np.ptp(drawn) > 0.5
        np.testing.assert_array_equal(init_state(flat, one, (SMALL, SMALL), how).noise, state.noise)
        assert np.abs(init_state(flat, other, (SMALL, SMALL), how).noise - state.noise).min() > 1e-4
    else:
        np.testing.assert_array_equal(state.noise, 0)
    assert state.step == 0 and not state.done
    # What the first step sees, and what the second does.
    first = tile if init == "clean" else np.clip(flat.denormalize(state.noise), 0, 1)
    new, losses = step(flat, state, one, how)
    np.testing.assert_allclose(losses.total, (PULL * first).sum(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new.best_tile, first, atol=1e-6)
    _, losses = step(flat, new, one, how)
    second = np.clip(flat.denormalize(new.noise), 0, 1)
    np.testing.assert_allclose(losses.total, (PULL * second).sum(), rtol=1e-5, atol=1e-6)


def test_the_first_step_of_a_clean_start_moves_by_the_clean_image_s_gradient(flat):
    how = plain(
        objective="classify",
        init="clean",
        optimizer="sgd",
        learning_rate=0.5,
        ce_weight=1.0,
        ce_gate=False,
    )
    one = flat_problem(target=2, corner=(2, 4))
    state, _ = step(flat, init_state(flat, one, (SMALL, SMALL), how), one, how)
    gradient = jax.grad(lambda image: -jax.nn.log_softmax(flat(image))[2])(one.image)[2:4, 4:6]
    np.testing.assert_allclose(state.noise, -0.5 * gradient * STD, rtol=1e-4, atol=1e-6)


# --- the whole algorithm against a plain loop --------------------------------


def reference(network, one, how, count):
    """Algorithm 1 for one image, written out."""
    (row, column), size, side = np.asarray(one.corner), SIZE, SIDE // 2
    mask = np.zeros((SIDE, SIDE))
    mask[row : row + size, column : column + size] = 1
    covered = mask.reshape(side, 2, side, 2).mean((1, 3))
    place = np.s_[row : row + size, column : column + size]
    trunk, head = network.split("features.4")

    @partial(jax.value_and_grad, has_aux=True)
    def look(noise):
        exact = (1 - one.ratio) * one.image[place] + one.ratio * (noise * STD + MEAN)
        tile = exact + jax.lax.stop_gradient(jnp.clip(exact, 0, 1) - exact)
        features = trunk(one.image.at[place].set(tile))
        logits, back = jax.vjp(head, features)
        (gradient,) = back(jnp.zeros(3).at[one.target].set(1))
        heat = jax.nn.relu(jnp.einsum("hwk,k->hw", features, gradient.mean((0, 1))))
        share = (heat * covered).sum() / heat.sum()
        odds = jnp.exp(logits) / jnp.exp(logits).sum()
        entropy = -jnp.log(odds[one.target])
        rival = jnp.delete(odds, one.target, assume_unique_indices=True).max()
        lacking = jnp.maximum(0, jnp.maximum(rival, how.confidence) - odds[one.target])
        if how.objective.name == "hide":
            explanation = (heat * covered).sum() / covered.sum()
            short = lacking + jnp.maximum(0, share - HIDDEN + MARGIN)
        else:
            explanation = 1 - share
            peak = jnp.unravel_index(heat.argmax(), heat.shape)
            outside = jnp.asarray(covered)[peak] < 0.5
            short = lacking + jnp.maximum(0, HIGHLIGHTED + MARGIN - share) + 0.1 * outside
        total = explanation + how.ce_weight * jnp.where(lacking > 0, entropy, 0)
        return total, (entropy, explanation, short, tile)

    look = jax.jit(look)
    noise, velocity, history, best = jnp.zeros((size, size, 3)), 0.0, [], (np.inf, None)
    for _ in range(count):
        (total, (entropy, explanation, short, tile)), gradient = look(noise)
        history.append((total, entropy, explanation))
        if short < best[0]:
            best = (short, tile)
        velocity = 0.9 * velocity + gradient
        noise = np.clip(noise - how.learning_rate * velocity, -MEAN / STD, (1 - MEAN) / STD)
    return noise, np.asarray(history), best


@pytest.mark.parametrize(
    "objective, target, ratio, corner, rate",
    [("hide", 2, 0.6, (5, 3), 300.0), ("highlight", 0, 1.0, (21, 22), 10.0)],
)
def test_a_trajectory(tiny64, objective, target, ratio, corner, rate):
    how = plain(
        objective=objective,
        optimizer="momentum",
        learning_rate=rate,
        ce_weight=0.05,
        confidence=0.9,
    )
    one = problem(pixels(SIDE, SIDE, 3, seed=2, dtype=np.float64), target, ratio, corner)
    states, problems = batched(tiny64, [one, one], SIZE, how)
    states, losses = advance(tiny64, states, problems, how, 8)
    noise, history, (short, tile) = reference(tiny64, one, how, 8)
    assert (np.abs(noise) > 1.7).any()  # some of it at the bound
    for slot in (0, 1):
        np.testing.assert_allclose(np.stack(losses, -1)[:, slot], history, rtol=1e-7)
        np.testing.assert_allclose(states.noise[slot], noise, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(states.best_tile[slot], tile, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(states.best_shortfall[slot], short, rtol=1e-7)
    assert states.step.tolist() == [8, 8]


def test_a_stream_s_trajectory(tiny64):
    """The same through `stream`, which evaluates only what the patch can reach."""
    how = plain(
        objective="hide",
        steps=8,
        optimizer="momentum",
        learning_rate=300.0,
        ce_weight=0.05,
        confidence=0.9,
    )
    one = problem(pixels(SIDE, SIDE, 3, seed=2, dtype=np.float64), 2, 0.6, (5, 3))
    ((_, outcome),) = stream(tiny64, [one], (SIZE, SIZE), how, batch=1)
    _, history, (_, tile) = reference(tiny64, one, how, 8)
    np.testing.assert_allclose(np.stack(outcome.history, -1), history, rtol=1e-7)
    np.testing.assert_allclose(outcome.tile, tile, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(outcome.adversarial, paste(one.image, outcome.tile, one.corner))


# --- batches -----------------------------------------------------------------

MIXED = [(0, 1.0), (1, 0.2), (2, 0.5), (0, 0.9), (2, 1.0)]  # target, ratio


def test_many_images_through_few_slots(tiny64, monkeypatch):
    """Every guarantee that does not depend on how well the attack goes."""
    monkeypatch.setattr(slots, "CHUNK", 8)
    row, column = 7, 13
    how = plain(
        objective="highlight", steps=19, optimizer="adam", learning_rate=0.2, confidence=0.3
    )
    problems = [
        problem(pixels(SIDE, SIDE, 3, seed=seed, dtype=np.float64), *options, (row, column))
        for seed, options in enumerate(MIXED)
    ]
    drawn, counts = [], []

    def draw():
        for place, one in enumerate(problems):
            drawn.append(place)
            yield one

    compiled = engine._one_step.cache_info().misses
    outcomes = {}
    for place, outcome in stream(
        tiny64, draw(), (SIZE, SIZE), how, batch=2, on_steps=counts.append
    ):
        assert len(drawn) <= 2 + len(outcomes)  # a problem is drawn when its slot is free
        outcomes[place] = outcome
    assert engine._one_step.cache_info().misses == compiled + 1
    assert sorted(outcomes) == [0, 1, 2, 3, 4]
    assert sum(counts) == sum(outcome.steps for outcome in outcomes.values())

    inside = np.zeros((SIDE, SIDE), bool)
    inside[row : row + SIZE, column : column + SIZE] = True
    for place, (one, (target, ratio)) in enumerate(zip(problems, MIXED, strict=True)):
        outcome, image = outcomes[place], np.asarray(one.image)
        np.testing.assert_array_equal(outcome.adversarial[~inside], image[~inside])
        change = np.abs(outcome.adversarial - image)
        assert 0 < change.max() <= ratio + 1e-9
        assert 0 <= outcome.adversarial.min() and outcome.adversarial.max() <= 1
        np.testing.assert_array_equal(
            outcome.adversarial[inside].reshape(SIZE, SIZE, 3), outcome.tile
        )
        assert 1 <= outcome.steps <= 19
        assert {len(part) for part in outcome.history} == {outcome.steps}
        assert outcome.converged or outcome.steps == 19
        best = np.stack(outcome.history, -1) == np.asarray(outcome.losses)
        assert best.all(-1).any()
        entropy = cross_entropy_of(tiny64, outcome.adversarial, target)
        np.testing.assert_allclose(outcome.losses.cross_entropy, entropy, rtol=1e-7)
        # The same image alone, beside an idle slot.
        ((_, alone),) = stream(tiny64, [one], (SIZE, SIZE), how, batch=2)
        assert alone.reach == outcome.reach
        alone, outcome = (each._replace(reach=None) for each in (alone, outcome))
        assert_same(alone, outcome, rtol=1e-6, atol=1e-9)
    assert engine._one_step.cache_info().misses == compiled + 1


def test_steps_in_pieces_are_steps_at_once(flat):
    how = plain(
        objective="highlight", optimizer="momentum", learning_rate=0.5, ce_weight=0.5, ce_gate=False
    )
    problems = [flat_problem(seed, target=seed, corner=(seed, 2)) for seed in range(3)]
    states, stacked = batched(flat, problems, SMALL, how)
    whole, history = advance(flat, jax.tree.map(jnp.copy, states), stacked, how, 6)
    first, head = advance(flat, states, stacked, how, 3)
    second, tail = advance(flat, first, stacked, how, 3)
    assert_same(second, whole)
    assert_same(jax.tree.map(lambda *parts: jnp.concatenate(parts), head, tail), history)
    assert np.ptp(history.total, axis=0).min() > 0


def test_a_batch_is_its_images(flat):
    how = plain(objective="hide", optimizer="sgd", learning_rate=0.5, ce_weight=0.5, ce_gate=False)
    problems = [
        flat_problem(0, target=0, corner=(0, 4), ratio=1.0),
        flat_problem(1, target=2, corner=(3, 0), ratio=0.2),
    ]
    states, stacked = batched(flat, problems, SMALL, how)
    others = batched(flat, [one._replace(corner=one.corner[::-1]) for one in problems], SMALL, how)
    compiled = engine._one_step.cache_info().misses
    states, history = advance(flat, states, stacked, how, 4)
    advance(flat, *others, how, 4)
    assert engine._one_step.cache_info().misses == compiled + 1
    assert history.total.shape == (4, 2)
    for slot, one in enumerate(problems):
        state = init_state(flat, one, (SMALL, SMALL), how)
        for i in range(4):
            state, losses = step(flat, state, one, how)
            taken = jax.tree.map(lambda leaf: leaf[i, slot], history)  # noqa: B023
            assert_same(taken, losses, rtol=1e-4, atol=1e-6)
        ours = jax.tree.map(lambda leaf: leaf[slot], states)  # noqa: B023
        assert_same(ours, state, rtol=1e-4, atol=1e-6)


def sure_and_lost(flat):
    """Two problems: one whose target is the top class at once, one whose target is far."""
    one = flat_problem(0, corner=(2, 2))
    patched = paste(one.image, flat.denormalize(jnp.zeros((SMALL, SMALL, 3))), one.corner)
    logits = flat(patched)
    targets = logits.argmax(), logits.argmin()
    return [one._replace(target=target.astype(jnp.int32)) for target in targets]


CREEP = {"optimizer": "sign", "learning_rate": 1e-4, "confidence": 0.0, "ce_gate": False}


def test_an_image_that_is_done_is_frozen(flat):
    how = plain(objective="classify", steps=50, patience=3, **CREEP)
    states, problems = batched(flat, sure_and_lost(flat), SMALL, how)
    states, history = advance(flat, states, problems, how, 8)
    assert states.step.tolist() == [3, 8]
    assert states.done.tolist() == [True, False]
    assert states.best_shortfall[0] == 0 and states.best_shortfall[1] > 0
    np.testing.assert_allclose(np.abs(states.noise[0]), 3e-4, rtol=1e-3)
    np.testing.assert_allclose(np.abs(states.noise[1]), 8e-4, rtol=1e-3)
    # Of three patches with a shortfall of zero the first is kept.
    mean = jnp.broadcast_to(flat.denormalize(jnp.zeros(3)), (SMALL, SMALL, 3))
    np.testing.assert_allclose(states.best_tile[0], mean, atol=1e-7)
    assert states.best_losses.cross_entropy[0] == history.cross_entropy[0, 0]
    kept = jax.tree.map(np.array, states)
    states, _ = advance(flat, states, problems, how, 8)
    assert_same(*(jax.tree.map(lambda leaf: leaf[0], tree) for tree in (states, kept)))
    assert states.step.tolist() == [3, 16]
    assert not np.array_equal(states.noise[1], kept.noise[1])


def test_no_step_beyond_that_in_which_an_image_is_done(flat):
    how = Attack(objective="classify", steps=50, patience=3, **CREEP)
    states, problems = batched(flat, sure_and_lost(flat), SMALL, how)
    whole, history = advance(flat, *batched(flat, sure_and_lost(flat), SMALL, how), how, 8)
    for steps in (3, 5):
        states, part = advance(flat, states, problems, how, 5, until_held=True)
        assert len(part.total) == steps
    assert_same(states, whole)
    np.testing.assert_array_equal(part.total[:, 1], history.total[3:, 1])


def test_an_early_stop_and_a_limit_that_is_no_multiple_of_the_chunk(flat, monkeypatch):
    monkeypatch.setattr(slots, "CHUNK", 8)
    how = plain(objective="classify", steps=13, patience=3, **CREEP)
    counts = []
    outcomes = dict(
        stream(flat, sure_and_lost(flat), (SMALL, SMALL), how, batch=2, on_steps=counts.append)
    )
    assert [outcomes[i].steps for i in (0, 1)] == [3, 13]
    assert [outcomes[i].converged for i in (0, 1)] == [True, False]
    assert [len(outcomes[i].history.total) for i in (0, 1)] == [3, 13]
    assert np.isfinite(np.stack(outcomes[1].history)).all()
    assert counts == [3 + 3, 8, 2]  # on a CPU the slot of one that is done is not kept waiting


def test_the_goal_must_be_met_in_a_row(flat):
    settings = {"patience": 3, "ce_weight": 0.0, "optimizer": "sgd", "learning_rate": 1.0}
    met = plain(objective=lambda evidence: jnp.zeros(()), **settings)
    missed = plain(objective=lambda evidence: jnp.ones(()), **settings)
    one = flat_problem()
    state = init_state(flat, one, (SMALL, SMALL), met)
    for how, streak in [(met, 1), (met, 2), (missed, 0), (met, 1), (met, 2), (met, 3)]:
        assert not state.done
        state, _ = step(flat, state, one, how)
        assert state.streak == streak
    assert state.done


def bowl(evidence):
    return jnp.sum((evidence.tile - 0.9) ** 2)


def test_the_best_patch_is_kept_and_not_the_last(flat, monkeypatch):
    monkeypatch.setattr(slots, "CHUNK", 3)
    how = plain(
        objective=bowl,
        steps=7,
        optimizer="momentum",
        learning_rate=2.0,
        ce_weight=0.0,
        project=False,
    )
    problems = [flat_problem(seed, ratio=1 - 0.2 * seed, corner=(1, 2)) for seed in range(2)]
    outcomes = dict(stream(flat, problems, (SMALL, SMALL), how, batch=2))
    for place, one in enumerate(problems):
        outcome = outcomes[place]
        total = outcome.history.total
        assert len(total) == outcome.steps == 7 and not outcome.converged
        assert 0 < total.argmin() < 6
        assert outcome.losses.total == total.min()
        value, (losses, _) = evaluate(flat, jnp.asarray(outcome.tile), one, how)
        np.testing.assert_allclose(value, total.min(), rtol=1e-5)
        np.testing.assert_allclose(outcome.losses, losses, rtol=1e-5)


def test_an_attack_restarts_once_where_its_best_step_is_half_of_the_steps_ago(flat):
    def objective(evidence):  # of target 0 no step is better than the first, of 1 each is
        return jnp.where(evidence.target == 0, 1.0, bowl(evidence))

    how = plain(objective=objective, ce_weight=0.0, steps=8, learning_rate=0.01, restart=True)
    problems = [flat_problem(seed, target=seed) for seed in range(2)]
    states, stacked = batched(flat, problems, SMALL, how)
    noises, counts = [], []
    for _ in range(8):
        states, _ = engine.steps(flat, states, stacked, how, 1, None)
        noises.append(np.asarray(states.noise))
        counts.append(states.optimizer[0].count.tolist())
    assert counts == [[n + 1 if n < 4 else n - 4, n + 1] for n in range(8)]
    assert states.step.tolist() == [8, 8] and states.done.all()
    drawn = jax.random.uniform(jax.random.fold_in(problems[0].key, 1), (SMALL, SMALL, 3))
    np.testing.assert_allclose(flat.denormalize(jnp.asarray(noises[4][0])), drawn, atol=1e-6)
    start = init_state(flat, problems[0], (SMALL, SMALL), how)
    np.testing.assert_array_equal(states.best_noise[0], start.noise)
    never = plain(objective=objective, ce_weight=0.0, steps=8, learning_rate=0.01)
    others, stacked = batched(flat, problems, SMALL, never)
    others, _ = engine.steps(flat, others, stacked, never, 8, None)
    np.testing.assert_array_equal(others.noise[1], states.noise[1])
    assert others.improved is None


def test_a_loss_that_is_no_number_is_never_the_best(flat):
    def objective(evidence):
        return jnp.where(evidence.target == 1, jnp.nan, 1.0) * bowl(evidence)

    how = plain(objective=objective, steps=4, optimizer="sign", learning_rate=0.01, ce_weight=0.0)
    problems = [flat_problem(0, target=1), flat_problem(1, target=0)]
    outcomes = dict(stream(flat, problems, (SMALL, SMALL), how, batch=2))
    np.testing.assert_array_equal(outcomes[0].adversarial, problems[0].image)
    assert not outcomes[0].converged
    assert np.isfinite(outcomes[1].history.total).all()
    assert outcomes[1].losses.total == outcomes[1].history.total.min()


@pytest.mark.parametrize("precision", ["highest", "bfloat16"])
def test_the_precision_of_the_products(flat, precision):
    seen = set()

    def objective(evidence):
        seen.add(jax.config.jax_default_matmul_precision)
        return bowl(evidence)

    how = plain(objective=objective, steps=1, ce_weight=0.0)
    list(stream(flat, [flat_problem()], (SMALL, SMALL), how, batch=1, precision=precision))
    assert seen == {precision}


def test_nothing_to_attack(flat):
    assert list(stream(flat, [], (SMALL, SMALL), plain())) == []


# --- attack() ----------------------------------------------------------------


def images_of(count, side=SIDE):
    return np.random.default_rng(7).uniform(size=(count, side, side, 3)).astype(np.float32)


def test_attack_gives_outcomes_in_the_order_of_the_images(flat):
    images, targets = images_of(5, FLAT), [0, 1, 2, 0, 1]
    labels = np.asarray(flat(images)).argmax(-1)

    def objective(evidence):
        return 10.0 * evidence.target + evidence.label + 0 * bowl(evidence)

    how = plain(objective=objective, steps=3, learning_rate=0.1, ce_weight=0.0)
    outcomes = attack(flat, images, targets, Patch(SMALL, 0.5, "bottom-left"), how, batch=2)
    explained = [outcome.losses.explanation for outcome in outcomes]
    np.testing.assert_allclose(explained, 10 * np.asarray(targets) + labels)
    for image, outcome in zip(images, outcomes, strict=True):
        np.testing.assert_array_equal(outcome.adversarial[:-SMALL], image[:-SMALL])
        np.testing.assert_array_equal(outcome.adversarial[:, SMALL:], image[:, SMALL:])
        assert 0 < np.abs(outcome.adversarial - image).max() <= 0.5 + 1e-6
        assert outcome.adversarial.dtype == np.float32


def test_the_seed_of_a_random_start(flat):
    images = np.stack([images_of(1, FLAT)[0]] * 2)
    how = plain(objective="classify", steps=1, init="random")
    run = partial(attack, flat, images, [0, 0], Patch(SMALL), how, batch=1)
    (one, other), (again, _), (different, _) = run(seed=1), run(seed=1), run(seed=2)
    np.testing.assert_array_equal(one.tile, again.tile)
    assert np.abs(one.tile - different.tile).min() > 0
    assert np.abs(one.tile - other.tile).min() > 0


def test_a_patch_that_does_not_fit(flat):
    with pytest.raises(PatchError, match=f"inside an image of {FLAT}x{FLAT}"):
        attack(flat, images_of(1, FLAT), [0], Patch(FLAT + 1), plain())


@pytest.mark.parametrize(
    "images, targets, message",
    [
        (images_of(2, FLAT), [0], "2 images; give a list of as many targets"),
        (images_of(1, FLAT), 0, "1 images; give a list of as many targets"),
        (images_of(1, FLAT), "a", "1 images; give a list of as many targets"),
        (images_of(2, FLAT), [0, 3], "3"),
        (images_of(1, FLAT), [-1], "-1"),
        (images_of(1, FLAT), [0.5], "0.5"),
        (images_of(1, FLAT), ["lynx"], "there is no class 'lynx'"),
        (255 * images_of(1, FLAT), [0], r"goes from .* give floats in \[0, 1\]"),
        (images_of(1, FLAT) - 0.5, [0], r"goes from -0\..* give floats in \[0, 1\]"),
        (np.nan * images_of(1, FLAT), [0], "not finite"),
        (np.zeros((1, FLAT, FLAT, 3), np.uint8), [0], "is uint8 from 0 to 0; give floats"),
        (images_of(1, FLAT)[0], [0], r"images have shape \[6, 6, 3\]"),
        (images_of(0, FLAT), np.zeros(0, np.int32), r"images have shape \[0, 6, 6, 3\]"),
    ],
)
def test_images_and_targets_that_cannot_be(flat, images, targets, message):
    with pytest.raises(UserError, match=message):
        slots.images_and_targets(flat, images, targets)


def test_an_attack_asks_for_images_and_targets(flat):
    with pytest.raises(UserError, match="as many targets"):
        attack(flat, images_of(2, FLAT), [0], Patch(SMALL), plain(steps=1))
    with pytest.raises(UserError, match="goes from"):
        attack(flat, 255 * images_of(1, FLAT), [0], Patch(SMALL), plain(steps=1))


def test_targets_may_be_names(flat):
    images, how = images_of(2, FLAT), plain(steps=2)
    by_name = attack(flat, images, list(flat.categories[1:3]), Patch(SMALL), how)
    by_number = attack(flat, images, [1, 2], Patch(SMALL), how)
    for one, other in zip(by_name, by_number, strict=True):
        np.testing.assert_array_equal(one.tile, other.tile)


# --- does it work ------------------------------------------------------------


@pytest.fixture(scope="module")
def outlook(tiny):
    """Images, and what a patch of the mean colour makes of them."""
    images = images_of(3)
    tile = jnp.broadcast_to(tiny.denormalize(jnp.zeros(3)), (SIZE, SIZE, 3))
    corner = jnp.asarray([0, SIDE - SIZE], jnp.int32)
    covered = coverage((SIDE // 2,) * 2, (SIDE,) * 2, corner, (SIZE,) * 2)

    @partial(jax.jit, static_argnums=1)
    @partial(jax.vmap, in_axes=(0, None))
    def share(image, target):
        return energy(grad_cam(tiny, image, target), covered), jax.nn.softmax(tiny(image))[target]

    patched = jax.vmap(lambda image: paste(image, tile, corner))(jnp.asarray(images))
    return images, patched, share


@pytest.mark.parametrize("objective, target", [("classify", 0), ("highlight", 1)])
def test_the_attack_works(tiny, outlook, objective, target):
    images, patched, share = outlook
    how = plain(
        objective=objective,
        steps=40,
        optimizer="adam",
        learning_rate=0.1,
        ce_weight=0.05,
        confidence=0.6,
    )
    outcomes = attack(tiny, images, [target] * 3, Patch(SIZE), how, batch=3)
    before, odds_before = share(patched, target)
    after, odds = share(np.stack([outcome.adversarial for outcome in outcomes]), target)
    if objective == "classify":
        assert (odds > odds_before + 0.1).all()
    else:
        assert (after > before).all()


# ---- what a step costs ---------------------------------------------------------------------------


def test_one_program_serves_all_images_targets_weights_rates_and_places_of_a_class(tiny):
    images = images_of(2, 48)

    def run(targets, position, **options):
        how = plain(objective="hide", **{"steps": 2, **options})
        return attack(tiny, images, targets, Patch(8, 0.5, position), how, batch=2)

    run([1, 2], (16, 16))
    before = engine._one_step.cache_info().misses
    first = run([0, 2], (20, 14), ce_weight=0.7, learning_rate=0.3, confidence=0.99, steps=3)
    second = run([0, 2], (20, 14), ce_weight=0.1, learning_rate=0.1, patience=2)
    assert engine._one_step.cache_info().misses == before
    assert first[0].losses.total != second[0].losses.total  # the numbers are not baked in
    assert [outcome.steps for outcome in (*first, *second)] == [3, 3, 2, 2]
    run([1, 2], (17, 16))
    assert engine._one_step.cache_info().misses == before + 1


@pytest.mark.parametrize("name", ["mini_vgg_bn", "mini_resnext"])
def test_a_constant_alpha_would_save_nothing(name):
    """JAX knows that alpha's derivative is zero: there is no second-order pass to leave out."""
    _, head = random(name).split()
    activations = jax.eval_shape(random(name).split()[0], jnp.zeros((64, 64, 3)))

    def flops(score, constant):
        def loss(activations):
            def of_target(activations):
                logits = head(activations)
                return score(logits)[0], logits

            gradient, logits = jax.grad(of_target, has_aux=True)(activations)
            alpha = gradient.mean((0, 1))
            alpha = jax.lax.stop_gradient(alpha) if constant else alpha
            return jax.nn.relu(activations @ alpha).sum() + logits[1]

        return jax.jit(jax.grad(loss)).lower(activations).cost_analysis()["flops"]

    def logit(logits):
        return logits

    assert flops(logit, constant=True) == flops(logit, constant=False)
    assert flops(jax.nn.softmax, constant=True) < flops(jax.nn.softmax, constant=False)


def test_out_of_memory_halves_the_batch_and_loses_nothing(flat, monkeypatch):
    how = plain(objective="hide", steps=4, optimizer="sgd", learning_rate=0.5, confidence=0.3)
    problems = [flat_problem(seed, target=seed % 3, corner=(1, 2)) for seed in range(6)]
    expected = dict(stream(flat, problems, (SMALL, SMALL), how, 1))
    calls, advance = [], engine.advance

    def greedy(network, states, *rest, **options):
        calls.append(len(states.step))
        if len(states.step) > 2 or len(calls) == 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return advance(network, states, *rest, **options)

    monkeypatch.setattr(slots, "advance", greedy)
    notes = []
    found = dict(stream(flat, problems, (SMALL, SMALL), how, 8, on_batch=notes.append))
    assert notes == [4, 2, 1]
    assert calls[:4] == [8, 4, 2, 2]
    assert sorted(found) == sorted(expected)
    for index, outcome in found.items():
        np.testing.assert_allclose(outcome.tile, expected[index].tile, rtol=1e-5)
        assert outcome.history.total.shape == expected[index].history.total.shape


def test_other_errors_of_the_device_are_told(flat, monkeypatch):
    def broken(*_, **options):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(slots, "advance", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        list(stream(flat, [flat_problem()], (SMALL, SMALL), plain(steps=1)))


# --- both losses by direction ------------------------------------------------


def test_balanced_losses_pull_at_the_layer_with_the_lengths_that_the_weight_says(flat):
    one, how = flat_problem(), Attack(objective="hide", ce_weight=3.0, ce_gate=False)
    tile = pixels(SMALL, SMALL, 3, seed=8)
    trunk, head = flat.split()
    activations = trunk(one.image.at[3:5, 1:3].set(tile))
    covered = coverage(activations.shape[:2], (FLAT, FLAT), (3, 1), (SMALL, SMALL))

    def losses(activations):
        logits, heat = how.explainer.logits_and_map(head, activations, one.target)
        heat = jnp.sum(heat * covered) / jnp.sum(covered)
        return heat, -jax.nn.log_softmax(logits)[one.target]

    def minimised(activations):
        arguments = activations, one.image, tile, covered, one, how
        return loss_from_activations(head, *arguments)[0]

    one = one._replace(corner=jnp.asarray((3, 1)))
    pulls = [jax.grad(lambda a, i=i: losses(a)[i])(activations) for i in (0, 1)]
    assert all(jnp.linalg.norm(pull) > 0 for pull in pulls)
    explanation, entropy = (pull / jnp.linalg.norm(pull) for pull in pulls)
    found = jax.grad(minimised)(activations)
    np.testing.assert_allclose(found, explanation + 3 * entropy, rtol=1e-4, atol=1e-6)


def test_the_scale_of_a_balanced_loss_does_not_matter(flat):
    one, tile = flat_problem(corner=(3, 1)), pixels(SMALL, SMALL, 3, seed=8)

    def gradient(scale, **settings):
        how = Attack(objective=lambda evidence: scale * hide(evidence), **settings)
        return jax.grad(evaluate, argnums=1, has_aux=True)(flat, tile, one, how)[0]

    np.testing.assert_allclose(gradient(1000.0), gradient(1.0), rtol=1e-3, atol=1e-7)
    raw = [gradient(scale, balance=False) for scale in (1000.0, 1.0)]
    assert not np.allclose(*raw, rtol=0.1)


def test_a_ring_is_in_the_loss_and_in_the_goal(flat):
    one, tile = flat_problem(corner=(3, 1)), pixels(SMALL, SMALL, 3, seed=8)
    seen = []

    def look(evidence):
        seen.append(np.asarray(evidence.coverage))
        return hide(evidence)

    for ring in (0, 1, 2):
        evaluate(flat, tile, one, plain(objective=look, ring=ring))
    wanted = np.zeros((3, FLAT, FLAT))
    for grown, ring in zip(wanted, (0, 1, 2), strict=True):
        grown[3 - ring : 5 + ring, max(1 - ring, 0) : 3 + ring] = 1
    np.testing.assert_array_equal(seen, wanted)


@pytest.mark.parametrize("objective", ["highlight", "classify", "paper"])
def test_only_hide_has_rings(objective):
    with pytest.raises(AttackError, match=f"ring is 1, but {objective} clears no cells"):
        Attack(objective=objective, ring=1)
