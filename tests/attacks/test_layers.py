"""Attacks on the maps of other layers than the target layer, and of other explainers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gcpatch
from gcpatch.attacks.engine import forward_of, reach_of, remember
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack, AttackError
from gcpatch.attacks.slots import Result
from gcpatch.attacks.step import Losses, evaluate, make_problem
from gcpatch.data.sources import Item, Picture
from gcpatch.errors import UserError
from gcpatch.explainers.cam import METHODS, Cam, grad_cam, layercam
from gcpatch.runs.outcome import evaluate_result, look_at

SIDE, LAYER = 32, "features.1"


def image(seed=0):
    return np.random.default_rng(seed).random((SIDE, SIDE, 3), np.float32)


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_of_the_explainers_map_at_the_layer(tiny, name):
    def heat(evidence):
        return evidence.heat.sum()

    attack = Attack(objective=heat, ce_weight=0.0, balance=False, layer=LAYER, explainer=name)
    place = Patch(8).place(SIDE, SIDE)
    problem = make_problem(tiny, image(), 2, attack, placement=place, key=jax.random.key(0))
    tile = image(1)[:8, :8]
    pasted = image()
    pasted[:8, -8:] = tile
    total, _ = evaluate(tiny, jnp.asarray(tile), problem, attack)
    wanted = METHODS[name](tiny, pasted, 2, layer=LAYER)
    assert wanted.shape == problem.clean_heat.shape == (32, 32)
    np.testing.assert_allclose(total, wanted.sum(), rtol=1e-4)
    clean = METHODS[name](tiny, image(), 2, layer=LAYER)
    np.testing.assert_allclose(problem.clean_heat_of_target, clean, rtol=1e-3, atol=1e-6)


def test_what_a_patch_reaches_of_another_layer(tiny):
    attack = Attack(layer=LAYER, explainer=layercam)
    place = Patch(8).place(SIDE, SIDE)
    problem = make_problem(tiny, image(), 2, attack, placement=place, key=jax.random.key(0))
    reach = reach_of(tiny, problem.image, corner=place.corner, size=8, layer=LAYER)
    tile, known = jnp.asarray(image(1)[:8, :8]), remember(tiny, problem, reach)
    full = forward_of(tiny, problem, LAYER, None)(tile)
    np.testing.assert_allclose(forward_of(tiny, known, LAYER, reach.program)(tile), full, atol=1e-5)
    assert full.shape[:2] == (32, 32)


def test_an_attack_on_another_layers_map(tiny):
    attack = Attack(objective="hide", steps=3, layer=LAYER, explainer="hirescam")
    (result,) = gcpatch.attack(tiny, image()[None], [1], Patch(8), attack)
    assert np.isfinite(result.history.total).all() and len(result.history.total) == 3
    assert (attack.describe()["layer"], attack.describe()["explainer"]) == (LAYER, "hirescam")


def test_verdicts_are_about_the_attacked_layer(tiny):
    pixels = np.rint(image() * 255).astype(np.uint8)
    item = Item("a", "drawn", lambda: Picture(pixels, "0123abcd" * 8))
    how, place = Attack(layer=LAYER, explainer="layercam"), Patch(8).place(*pixels.shape[:2])
    clean = look_at(tiny, item, how, rule="random", seed=0)
    wanted = layercam(tiny, np.float32(pixels) / 255, clean.target, layer=LAYER)
    np.testing.assert_allclose(clean.heat_of_target, wanted, rtol=1e-4, atol=1e-6)
    nothing = Losses(0.0, 0.0, 0.0)
    same = Result(np.float32(pixels) / 255, pixels[:8, :8] / 255, 1, False, nothing, nothing)
    found = evaluate_result(tiny, clean, same, how, png=pixels, place=place)
    np.testing.assert_allclose(found.heat, wanted, rtol=1e-4, atol=1e-6)


def test_a_rule_of_ones_own_is_an_explainer(tiny):
    def uniform(activations, gradient):
        return jnp.ones(activations.shape[:2])

    own = Cam(uniform)
    assert own(tiny, image(), 0).sum() == 16**2
    attack = Attack(explainer=own)
    assert attack.describe()["explainer"] == "uniform" and attack.explainer is own
    assert Attack().explainer is grad_cam and Attack(explainer=grad_cam).explainer is grad_cam


@pytest.mark.parametrize("given", ["occlusion", "lime", 3, gcpatch.input_gradient])
def test_what_is_no_cam_is_refused(given):
    with pytest.raises(AttackError, match=re.escape("choose one of grad-cam, hirescam")):
        Attack(explainer=given)


def test_a_layer_that_is_not_there_or_gives_no_map_is_refused(tiny):
    for layer, words in (("layer9", "has no layer 'layer9'"), ("classifier.0", "no map [h, w, k]")):
        with pytest.raises(UserError, match=re.escape(words)):
            gcpatch.attack(tiny, image()[None], [1], Patch(8), Attack(layer=layer))
