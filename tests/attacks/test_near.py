"""Steps in the near field: what they may not do, and what a refresh and an exact look make good."""

import json
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcpatch.attacks import engine, slots
from gcpatch.attacks.engine import EVERY, SHARE, choose_reach, forward_of, reach_of, work_of
from gcpatch.attacks.regions import Frame, Patch
from gcpatch.attacks.settings import Attack, AttackError
from gcpatch.attacks.slots import InProgress, Reached, attack, stream
from gcpatch.attacks.step import (
    evaluate,
    held,
    init_state,
    judge,
    make_problem,
    near_step,
    seen_of,
    show,
    step,
)
from gcpatch.attacks.universal import universal
from gcpatch.interpreters import work

SIDE, SIZE, CORNER, EVERY_TEST = 32, 10, (7, 13), 4
FLAT, SMALL = 6, 2


def images_of(count, side=SIDE, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, side, side, 3)).astype(dtype)


def problems_of(network, targets, how, dtype=np.float32):
    place = Patch(SIZE, position=CORNER).place(SIDE, SIDE)
    return [
        make_problem(network, image, target, how, placement=place, key=jax.random.key(0))
        for image, target in zip(images_of(len(targets), dtype=dtype), targets, strict=True)
    ]


@pytest.fixture
def often(monkeypatch):
    """Refreshes come after a few steps, whatever they cost."""

    def choose(*arguments, **options):
        found = choose_reach(*arguments, **options)
        return found._replace(every=found.every and EVERY_TEST)

    monkeypatch.setattr(slots, "choose_reach", choose)


def near(**options):
    usual = {"objective": "hide", "reach": 0, "optimizer": "momentum", "learning_rate": 30.0}
    return Attack(**usual | options)


# ---- what a step may not do


def in_the_flat(flat, target, **options):
    """A problem of the linear network, whose activations are the image, and its first state."""
    how = Attack(objective="classify", confidence=0.0, reach=1, **options)
    place = Patch(SMALL, position=(2, 2)).place(FLAT, FLAT)
    (image,) = images_of(1, FLAT)
    one = make_problem(flat, image, target, how, placement=place, key=jax.random.key(0))
    return how, one, init_state(flat, one, place.shape, how)


def best_and_worst(flat):
    how, one, state = in_the_flat(flat, 0)
    image = engine.paste(one.image, seen_of(flat, state, one, how)[0], one.corner)
    logits = flat(image)
    return flat.split()[0](image), int(logits.argmax()), int(logits.argmin())


def test_a_tile_that_only_looks_done_waits_and_is_moved_on_once_it_was_judged(flat):
    image, _, worst = best_and_worst(flat)
    how, one, state = in_the_flat(flat, worst)
    wrong = flat.weights[..., worst] * 100  # activations in which the target is sure
    waiting, _ = near_step(flat, state, one, how, lambda tile: wrong + 0 * tile.sum())
    assert waiting.near.waiting and not waiting.done and waiting.step == 0
    np.testing.assert_array_equal(waiting.noise, state.noise)
    assert jnp.isinf(waiting.best_shortfall)
    judged, losses = judge(flat, show(flat, waiting, one, how), one, how, image)
    exact = evaluate(flat, seen_of(flat, state, one, how)[0], one, how)[1]
    np.testing.assert_allclose((losses, judged.best_losses), (exact[0],) * 2, rtol=1e-6)
    np.testing.assert_allclose(judged.best_shortfall, exact[1], rtol=1e-6)
    assert not judged.done and not judged.near.waiting and judged.near.refreshes == 1
    assert judged.step == judged.near.looked == 0
    np.testing.assert_array_equal(judged.near.tile, seen_of(flat, state, one, how)[0])
    moved, _ = near_step(flat, judged, one, how, lambda tile: wrong + tile.sum())
    assert moved.step == 1 and not moved.done and not moved.near.waiting
    assert moved.best_shortfall == judged.best_shortfall


def test_a_tile_that_is_done_ends_the_attack_when_it_is_judged(flat):
    image, best, _ = best_and_worst(flat)
    how, one, state = in_the_flat(flat, best)
    waiting, _ = near_step(flat, state, one, how, lambda tile: image + 0 * tile.sum())
    assert not waiting.done and waiting.best_shortfall > 0
    judged, _ = judge(flat, waiting, one, how, image)
    assert judged.done and judged.step == judged.near.looked == 1 and judged.best_shortfall == 0


def test_the_goal_must_be_judged_as_met_in_a_row(flat):
    image, best, _ = best_and_worst(flat)
    how, one, state = in_the_flat(flat, best, patience=2, learning_rate=1e-4)
    judged, _ = judge(flat, state, one, how, image)
    assert not judged.done and judged.streak == 1
    moved, _ = near_step(flat, judged, one, how, lambda tile: image + 0 * tile.sum())
    assert (moved.step, moved.streak) == (1, 1)
    waiting, _ = near_step(flat, moved, one, how, lambda tile: image + 0 * tile.sum())
    judged, _ = judge(flat, waiting, one, how, image)
    assert judged.done and judged.step == 2
    missed = 0 * image + flat.weights[..., (best + 1) % 3] * 100
    lost, _ = near_step(flat, moved, one, how, lambda tile: missed + 0 * tile.sum())
    assert lost.streak == 0


def test_half_of_the_steps_without_a_better_tile_end_the_near_field(flat):
    image, _, worst = best_and_worst(flat)
    how, one, state = in_the_flat(flat, worst, steps=9)
    judged, _ = judge(flat, state, one, how, image)
    found = [judge(flat, judged._replace(step=judged.step + n), one, how, image) for n in (4, 5)]
    assert [bool(after.near.stalled) for after, _ in found] == [False, True]
    assert [int(after.near.improved) for after, _ in found] == [0, 0]
    stalled, _ = found[1]
    assert held(stalled) and not held(found[0][0])
    perfect = image + flat.weights[..., worst] * 100
    better, _ = judge(flat, judged._replace(step=judged.step + 5), one, how, perfect)
    assert not better.near.stalled and better.near.improved == 5
    late = judged._replace(step=judged.step + 9, done=jnp.ones((), bool))
    assert not judge(flat, late, one, how, image)[0].near.stalled  # no step is left to be exact


# ---- through the slots


def test_what_is_done_and_what_is_best_is_judged_by_the_whole_image(tiny, often):
    how = near(steps=11, objective="classify", confidence=0.6, optimizer="adam", learning_rate=0.3)
    problems = problems_of(tiny, [0, 1, 2], how)
    outcomes = dict(stream(tiny, problems, (SIZE, SIZE), how, 2, corner=CORNER))
    for place, one in enumerate(problems):
        outcome = outcomes[place]
        assert outcome.reach[:3] == ("near", 0, EVERY_TEST)
        assert outcome.reach.refreshes >= -(-outcome.steps // EVERY_TEST)
        assert len(outcome.history.total) == outcome.steps <= 11
        _, (losses, lacking) = evaluate(tiny, jnp.asarray(outcome.tile), one, how)
        np.testing.assert_allclose(outcome.losses, losses, rtol=1e-4)
        assert outcome.converged == (lacking == 0)
        if outcome.converged:
            np.testing.assert_allclose([part[-1] for part in outcome.history], losses, rtol=1e-4)
    assert len({outcome.converged for outcome in outcomes.values()}) == 2


def test_after_a_refresh_the_near_field_is_exact_and_before_it_is_not(tiny, often):
    how, first, seen = near(steps=8), itemgetter(0), []
    (one,) = problems_of(tiny, [1], how)

    def on_chunk(slots):
        for _, (problem, state, _) in slots.underway().items():
            state, kept = jax.tree.map(jnp.asarray, state), jax.tree.map(first, slots.problems)
            tile, _ = seen_of(tiny, state, problem, how)
            values = [
                forward_of(tiny, each, None, slots.reach.placed.program)(some)
                for each, some in ((kept, tile), (problem, tile), (kept, 1 - tile))
            ]
            other = forward_of(tiny, problem, None, None)(1 - tile)
            np.testing.assert_allclose(values[0], values[1], rtol=1e-5, atol=1e-5)
            seen.append(np.abs(values[2] - other).max())

    list(stream(tiny, [one], (SIZE, SIZE), how, 1, corner=CORNER, on_chunk=on_chunk))
    assert len(seen) == 1 and seen[0] > 1e-2


def test_neither_batch_nor_order_matters(tiny64, often):
    how = near(steps=9, confidence=0.3)
    problems = problems_of(tiny64, [0, 1, 2, 1], how, np.float64)

    def run(order, batch):
        found = stream(
            tiny64, [problems[i] for i in order], (SIZE, SIZE), how, batch, corner=CORNER
        )
        return {order[place]: outcome for place, outcome in found}

    together, reversed_ = run([0, 1, 2, 3], 2), run([3, 2, 1, 0], 2)
    (alone,) = run([2], 2).values()
    for found, wanted in [*((reversed_[i], together[i]) for i in range(4)), (alone, together[2])]:
        assert found.reach == wanted.reach and found.steps == wanted.steps
        np.testing.assert_allclose(found.tile, wanted.tile, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found.history, wanted.history, rtol=1e-6)


def test_accelerators_look_at_all_slots_at_once_and_find_the_same(tiny64, often, monkeypatch):
    how = near(steps=9, objective="classify", confidence=0.6, optimizer="adam", learning_rate=0.3)
    problems = problems_of(tiny64, [0, 1, 2, 1], how, np.float64)

    def run():
        return dict(stream(tiny64, problems, (SIZE, SIZE), how, 2, corner=CORNER))

    one_by_one = run()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    at_once = run()
    assert len({outcome.steps for outcome in at_once.values()}) > 1
    for place, wanted in one_by_one.items():
        found = at_once[place]
        assert found.reach == wanted.reach and found.steps == wanted.steps
        np.testing.assert_allclose(found.tile, wanted.tile, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found.history, wanted.history, rtol=1e-6)


def test_what_is_taken_up_beside_what_is_new_goes_on_bit_for_bit(tiny, often, monkeypatch):
    how = near(steps=10, objective="classify", confidence=0.0, learning_rate=1e-3)
    problems = problems_of(tiny, [0, 0, 0], how)
    shown = [
        engine.paste(
            one.image,
            seen_of(tiny, init_state(tiny, one, (SIZE, SIZE), how), one, how)[0],
            one.corner,
        )
        for one in problems
    ]
    logits = [tiny(image) for image in shown]
    targets = [each.argmin() for each in logits]
    targets[1] = logits[1].argmax()  # the second is done at once, and the third takes its slot
    problems = [
        one._replace(target=target.astype(jnp.int32))
        for one, target in zip(problems, targets, strict=True)
    ]
    kept = []
    first = dict(
        stream(
            tiny,
            problems,
            (SIZE, SIZE),
            how,
            2,
            corner=CORNER,
            on_chunk=lambda slots: kept.append(slots.underway()),
        )
    )
    assert first[1].steps == 1 and list(kept[0]) == [0]
    assert isinstance(kept[0][0], InProgress)
    assert kept[0][0].state.step == 1  # nobody waits for the others' looks
    again = dict(stream(tiny, [kept[0][0], problems[2]], (SIZE, SIZE), how, 2, corner=CORNER))

    ((_, alone),) = stream(tiny, [kept[0][0]], (SIZE, SIZE), how, 2, corner=CORNER)
    for found, wanted in [(again[0], first[0]), (again[1], first[2]), (alone, first[0])]:
        assert found.reach == wanted.reach and found.steps == wanted.steps == 10
        np.testing.assert_array_equal(found.tile, wanted.tile)
        np.testing.assert_array_equal(found.history, wanted.history)


@pytest.fixture
def stuck(often):
    """An attack that never gets better after its first step, where an image is dark in a corner."""

    def loss(evidence):
        logit = evidence.logits[0]
        constant = 1 + logit - jax.lax.stop_gradient(logit)  # which leads somewhere all the same
        return jnp.where(evidence.image[0, 0, 0] < 0.5, constant, evidence.tile.mean())

    return near(objective=loss, ce_weight=0.0, steps=14, learning_rate=1e-2, optimizer="sgd")


def problems_that_stall(network, how, which, count=3):
    return [
        one._replace(image=one.image.at[0, 0, 0].set(0.1 if number in which else 0.9))
        for number, one in enumerate(problems_of(network, range(count), how, np.float64))
    ]


@pytest.mark.parametrize("batch, platform", [(1, "cpu"), (2, "cpu"), (3, "cpu"), (3, "gpu")])
def test_what_stalls_in_the_near_field_goes_on_exactly_after_all_others(
    tiny64, stuck, batch, platform, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    problems = problems_that_stall(tiny64, stuck, {0, 1})
    found = list(stream(tiny64, problems, (SIZE, SIZE), stuck, batch, corner=CORNER))
    assert found[0][0] == 2 and len(found) == 3
    for place, outcome in found:
        looks, stalled = (4, False) if place == 2 else (3, True)
        assert outcome.reach == Reached("near", 0, EVERY_TEST, looks, stalled)
        assert outcome.steps == len(outcome.history.total) == 14


def test_after_an_image_stalled_its_steps_are_exact(tiny64, stuck):
    (one,), shown = problems_that_stall(tiny64, stuck, {0}, count=1), []
    options = dict(corner=CORNER, on_chunk=lambda slots: shown.append(slots.underway()))
    ((_, found),) = stream(tiny64, [one], (SIZE, SIZE), stuck, 1, **options)
    state = jax.tree.map(jnp.asarray, shown[2][0].state)
    assert state.near.stalled and state.step == 12 and not shown[1][0].state.near.stalled
    for _ in range(2):
        state, losses = step(tiny64, state, one, stuck)
        np.testing.assert_allclose(found.history.total[int(state.step) - 1], losses.total)
    (again,) = stream(tiny64, [shown[2][0]], (SIZE, SIZE), stuck, 1, **options)
    np.testing.assert_array_equal(again[1].history, found.history)
    assert again[1].reach == found.reach


def test_steps_in_one_program_are_steps_one_by_one(tiny64, often):
    how = near(steps=9)
    (one,) = problems_of(tiny64, [1], how, np.float64)
    state = init_state(tiny64, one, (SIZE, SIZE), how)
    reach = choose_reach(tiny64, one.image, corner=CORNER, size=SIZE, attack=how)
    one, program = engine.prepare(tiny64, one, reach), reach.placed.program
    states, problems = jax.tree.map(lambda leaf: leaf[None], (state, one))
    _, memory = engine.renew(tiny64, states, problems, reach)
    problems = problems._replace(memory=memory)
    singly, history = engine.advance(
        tiny64, jax.tree.map(jnp.copy, states), problems, how, 3, program
    )
    at_once, other = engine.steps(tiny64, states, problems, how, 3, program)
    np.testing.assert_allclose(singly.noise, at_once.noise, rtol=1e-9)
    np.testing.assert_allclose(history, other, rtol=1e-9)
    assert singly.step == at_once.step == 3 and jnp.isinf(at_once.best_shortfall[0])


# ---- what is asked for


def test_near_is_chosen_by_the_cost_and_exact_where_nothing_is_cut(tiny, flat, monkeypatch):
    monkeypatch.setattr(engine, "MARGIN", 0)
    images = jax.ShapeDtypeStruct((SIDE, SIDE, 3), "float32")
    options = {"corner": CORNER, "size": SIZE}
    found = choose_reach(tiny, images, **options, attack=Attack(reach="near"))
    assert found.margin == 0 and found.every in EVERY
    narrow, exact = (
        choose_reach(tiny, images, **options, attack=Attack(reach=reach)) for reach in (0, "exact")
    )
    assert narrow.every >= found.every and exact.every is exact.margin is None
    assert exact.placed.program.exact and not narrow.placed.program.exact
    traced = engine._traced_as(tiny, images, None)
    less, more = (work_of(traced, each.placed, SIZE) for each in (narrow, exact))
    assert less < more < work.count(engine._traced(*traced).jaxpr)
    assert narrow.wide == exact.placed and exact.wide is None
    cheap = [every for every in EVERY if more <= SHARE * every * 2 * less]
    assert narrow.every == (cheap[0] if cheap else EVERY[-1])
    small = jax.ShapeDtypeStruct((FLAT, FLAT, 3), "float32")
    nothing = choose_reach(flat, small, corner=(2, 2), size=SMALL, attack=Attack(reach=1))
    assert nothing.every is None and nothing.placed.program.exact
    assert reach_of(flat, small, corner=(2, 2), size=SMALL).program == nothing.placed.program


def test_where_nothing_is_cut_the_attack_is_exact_and_says_so(flat):
    images = images_of(2, FLAT)
    patch = Patch(SMALL, position=(2, 2))
    near_, exact = (
        attack(flat, images, [0, 1], patch, Attack(steps=4, reach=reach)) for reach in (3, "exact")
    )
    for one, other in zip(near_, exact, strict=True):
        assert one.reach == other.reach == Reached()
        np.testing.assert_array_equal(one.tile, other.tile)


@pytest.mark.parametrize("reach", ["far", -1, 1.5, None, True, False, float("nan")])
def test_a_reach_that_cannot_be(reach):
    with pytest.raises(AttackError, match=r"the reach is .*; it must be exact, near, or a whole"):
        Attack(reach=reach)


def test_a_reach_may_be_a_number_of_numpy():
    assert json.dumps(Attack(reach=np.uint8(2)).describe()["reach"]) == "2"


def test_only_a_square_patch_has_a_near_field(flat):
    how = Attack(reach="near", steps=1)
    with pytest.raises(AttackError, match="the reach is 'near', but only a square patch"):
        attack(flat, images_of(1, FLAT), [0], Frame(width=1), how)
    with pytest.raises(AttackError, match="the steps of a patch for many images are exact"):
        universal([flat], images_of(1, FLAT), [0], Patch(SMALL), how)
