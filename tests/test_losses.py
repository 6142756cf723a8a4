import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.stats import spearmanr

import gcpatch
from gcpatch import losses
from gcpatch.attacks.objectives import OBJECTIVES
from gcpatch.attacks.settings import Attack
from gcpatch.errors import UserError
from gcpatch.losses import Evidence, energy

HEAT = jnp.asarray([[0.0, 1.0, 4.0], [2.0, 0.0, 1.0]])
COVERED = jnp.asarray([[0.0, 0.5, 1.0], [0.0, 0.25, 0.5]])  # heat on the patch: 0.5 + 4 + 0.5


def evidence(**fields):
    defaults = {
        "image": jnp.zeros((6, 9, 3)),
        "tile": jnp.zeros((4, 4, 3)),
        "logits": jnp.asarray([0.0, np.log(2.0), np.log(5.0)]),
        "heat": HEAT,
        "coverage": COVERED,
        "target": jnp.asarray(1),
        "label": jnp.asarray(2),
        "explain": lambda label: HEAT,
        "clean_heat": HEAT,
        "clean_heat_of_target": HEAT,
    }
    return Evidence(**{**defaults, **fields})


def ramp(height, width):
    return jnp.arange(height * width, dtype=jnp.float32).reshape(height, width)


def test_cross_entropy_is_that_of_the_target():
    np.testing.assert_allclose(losses.cross_entropy(evidence()), np.log(8 / 2), rtol=1e-6)
    far = evidence(logits=jnp.asarray([1e4, 0.0, -1e4]))
    np.testing.assert_allclose(losses.cross_entropy(far), 1e4, rtol=1e-6)


def test_hide_is_the_mean_heat_on_the_patch():
    np.testing.assert_allclose(losses.hide(evidence()), 5 / 2.25, rtol=1e-6)


def test_highlight_is_the_share_of_the_heat_outside_the_patch():
    np.testing.assert_allclose(losses.highlight(evidence()), 3 / 8, rtol=1e-6)


def test_classify_is_zero():
    assert losses.classify(evidence()) == 0


@pytest.mark.parametrize(
    "size, expected",
    [
        (64, (0 + 1 + 2 + 3 + 7 + 8 + 9 + 10 + 14 + 15 + 16 + 17 + 21 + 22 + 23 + 24) / 16),
        (32, (0 + 1 + 7 + 8) / 16),
        (63, (0 + 1 + 7 + 8) / 16),
    ],
)
def test_paper_takes_the_literal_cells(size, expected):
    one = evidence(heat=ramp(7, 7), coverage=jnp.ones((7, 7)), tile=jnp.zeros((size, size, 3)))
    np.testing.assert_allclose(losses.paper(one), expected, rtol=1e-6)


def test_subramanya_takes_four_by_four_cells_of_the_map_divided_by_its_sum():
    one = evidence(heat=ramp(5, 5), coverage=jnp.ones((5, 5)))
    corner = 0 + 1 + 2 + 3 + 5 + 6 + 7 + 8 + 10 + 11 + 12 + 13 + 15 + 16 + 17 + 18
    np.testing.assert_allclose(losses.subramanya(one), corner / 300 / 16, rtol=1e-6)
    faint = evidence(heat=jnp.full((5, 5), 4e-12), coverage=jnp.ones((5, 5)))  # the sum is 1e-10
    np.testing.assert_allclose(losses.subramanya(faint), 16 * 4e-12 / 2e-10 / 16, rtol=1e-5)


def test_energy():
    np.testing.assert_allclose(energy(HEAT, COVERED), 5 / 8, rtol=1e-6)
    np.testing.assert_allclose(energy(1e-12 * HEAT, COVERED), 5 / 8, rtol=1e-6)
    np.testing.assert_allclose(energy(HEAT, jnp.ones((2, 3))), 1, rtol=1e-6)
    assert energy(jnp.zeros((2, 3)), COVERED) == 0


def test_location_is_the_share_of_the_heat_outside_the_mask():
    mask = np.asarray([[1.0, 1.0, 0.0], [0.5, 0.0, 0.0]])  # heat on it: 0 + 1 + 1
    np.testing.assert_allclose(losses.location(mask)(evidence()), 6 / 8, rtol=1e-6)
    np.testing.assert_allclose(
        losses.location(COVERED)(evidence()), losses.highlight(evidence()), rtol=1e-6
    )


def test_the_centre_of_mass_is_in_units_of_the_sides():
    np.testing.assert_allclose(losses.centre(jnp.ones((4, 9))), [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(losses.centre(3 * jnp.eye(2, 5)[::-1]), [0.5, 0.2], rtol=1e-6)


def test_centre_of_mass_is_minus_the_distance_that_it_moved():
    corner = jnp.zeros((2, 5)).at[0, 0].set(7.0)  # at (1/4, 1/10)
    other = jnp.zeros((2, 5)).at[1, 3].set(0.1)  # at (3/4, 7/10)
    moved = losses.centre_of_mass(evidence(heat=other, clean_heat=corner))
    np.testing.assert_allclose(moved, -np.hypot(0.5, 0.6), rtol=1e-6)
    for blank in ({"heat": jnp.zeros((2, 5))}, {"clean_heat": jnp.zeros((2, 5))}):
        assert losses.centre_of_mass(evidence(**{"heat": other, "clean_heat": corner} | blank)) == 0


def test_top_k_is_the_share_of_the_heat_in_the_cells_that_were_hottest():
    clean = jnp.asarray([[9.0, 7.0, 0.0], [0.0, 8.0, 0.0]])
    share = [losses.top_k(k)(evidence(clean_heat=clean)) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(share, [0, 0, 1 / 8, 1 / 8], rtol=1e-6)  # no fourth was hot
    share = losses.top_k(2)(evidence(heat=clean, clean_heat=HEAT))  # HEAT's 4 and 2
    np.testing.assert_allclose(share, 0, atol=1e-7)


def test_target_map_is_the_square_error_of_maps_of_mean_one():
    goal = np.asarray([[0.0, 0.0, 0.0], [0.0, 0.0, 60.0]])  # over its mean: a 6; HEAT's mean: 4/3
    errors = np.asarray([0, 0.75, 3, 1.5, 0, 0.75 - 6])
    np.testing.assert_allclose(losses.target_map(goal)(evidence()), (errors**2).mean(), rtol=1e-6)
    assert losses.target_map(10 * HEAT)(evidence()) < 1e-12


def test_target_cosine_is_one_minus_the_cosine():
    goal = np.asarray([[0.0, 3.0, 0.0], [0.0, 0.0, 4.0]])  # HEAT has 1 and 1 there
    wanted = 1 - (3 + 4) / (np.sqrt(22) * 5)
    np.testing.assert_allclose(losses.target_cosine(goal)(evidence()), wanted, rtol=1e-6)
    assert abs(losses.target_cosine(1e-3 * HEAT)(evidence())) < 1e-6
    faint = losses.target_cosine(goal)(evidence(heat=1e-30 * HEAT))  # its squares are 0
    np.testing.assert_allclose(faint, wanted, rtol=1e-5)
    assert losses.target_cosine(goal)(evidence(heat=jnp.zeros((2, 3)))) == 1


def test_keep_compares_with_the_clean_map():
    other = HEAT[::-1]
    assert losses.keep(evidence(clean_heat=3 * HEAT)) < 1e-12
    np.testing.assert_array_equal(
        losses.keep(evidence(clean_heat=other)), losses.target_map(other)(evidence())
    )


def test_swap_without_a_target_is_refused_in_a_sum_as_well():
    untargeted = evidence(clean_heat_of_target=None)
    with pytest.raises(UserError, match="swap needs a target"):
        (lambda seen: losses.swap(seen) + losses.hide(seen))(untargeted)


def test_swap_takes_the_other_class_for_each():
    maps = jnp.stack([ramp(2, 3), 2.0 + jnp.eye(2, 3), HEAT])  # of target 1 and label 2
    fields = {"heat": maps[1], "explain": lambda label: maps[label]}
    swapped = evidence(**fields, clean_heat=5 * maps[1], clean_heat_of_target=maps[2])
    assert losses.swap(swapped) < 1e-12
    kept = evidence(**fields, clean_heat=maps[2], clean_heat_of_target=maps[1])
    wanted = losses.square_error(maps[1], maps[2])
    np.testing.assert_allclose(losses.swap(kept), wanted, rtol=1e-6)
    half = evidence(**fields, clean_heat=maps[1], clean_heat_of_target=maps[1])
    np.testing.assert_allclose(losses.swap(half), wanted / 2, rtol=1e-6)


def test_rank_correlation_with_a_low_temperature_is_spearmans():
    clean = jnp.asarray([[3.0, 1.0, 3.0], [0.0, 0.5, 9.0]])  # ties on either side
    found = losses.rank_correlation(evidence(clean_heat=clean), temperature=1e-4)
    np.testing.assert_allclose(found, spearmanr(HEAT.ravel(), clean.ravel())[0], rtol=1e-5)
    assert losses.rank_correlation(evidence(clean_heat=7 * HEAT)) > 0.97
    assert losses.rank_correlation(evidence(clean_heat=5 - HEAT)) < -0.97
    assert losses.rank_correlation(evidence(clean_heat=jnp.ones((2, 3)))) == 0


def test_rank_correlation_by_hand():
    one = evidence(heat=jnp.asarray([[1.0, 3.5, 1.5]]), clean_heat=jnp.asarray([[0.0, 2.0, 5.0]]))
    near, far, most = 1 / (1 + np.exp(-np.asarray([0.25, 1.0, 1.25]) / 0.5))  # the mean is 2
    ranks = [(1 - most) + (1 - near), most + far, near + (1 - far)]
    wanted = np.corrcoef(ranks, [0, 1, 2])[0, 1]
    found = losses.rank_correlation(one, temperature=0.5)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_total_variation_is_the_mean_length_of_the_gradient():
    tile = jnp.zeros((2, 3, 3)).at[0, 1].set(jnp.asarray([0.1, 0.2, 0.2]))  # of length 0.3
    wanted = (0.3 + 0.3 * np.sqrt(2)) / 6  # from its left; its right and below it
    np.testing.assert_allclose(losses.total_variation(evidence(tile=tile)), wanted, rtol=1e-6)
    assert losses.total_variation(evidence(tile=jnp.full((4, 4, 3), 0.3))) == 0


def test_printability_is_the_mean_product_of_the_distances_to_the_colours():
    black_and_red = losses.printability(np.asarray([[0.0, 0, 0], [1, 0, 0]]))
    tile = jnp.asarray([[[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]], [[0.5, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    wanted = (0 + np.sqrt(2) * 1 + 0.5 * 0.5 + 0) / 4
    np.testing.assert_allclose(black_and_red(evidence(tile=tile)), wanted, rtol=1e-6)


def test_a_weighted_sum_is_a_function_of_its_own():
    one = evidence(tile=jnp.asarray(np.random.default_rng(0).random((4, 4, 3))))
    both = Attack(
        objective=lambda evidence: losses.hide(evidence) + 0.5 * losses.total_variation(evidence)
    )
    wanted = losses.hide(one) + 0.5 * losses.total_variation(one)
    np.testing.assert_allclose(both.objective.loss(one), wanted, rtol=1e-6)


# --- All of them ------------------------------------------------------------------------------

SIDES = 5, 6
CLEAN = ramp(*SIDES) % 7
COVERS = jnp.eye(*SIDES) / 2
GOAL = np.asarray(ramp(*SIDES)) % 4
MADE = {
    "location": losses.location(GOAL / 3),
    "target_map": losses.target_map(GOAL),
    "target_cosine": losses.target_cosine(GOAL),
    "printability": losses.printability(np.asarray([[0.0, 0, 0], [0.9, 0.2, 0.4]])),
}
EVERY = {**{name: known.loss for name, known in OBJECTIVES.items()}, **MADE}


@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_those_of_finite_differences(name, x64):
    generator = np.random.default_rng(5)
    heat, clean, target, other = jnp.asarray(generator.uniform(0.2, 1, (4, *SIDES)))
    tile = jnp.asarray(generator.random((4, 5, 3)))

    @jax.jit
    def loss(heat, other, tile):
        maps = jnp.stack([clean, heat, other])  # of the target, 1, and the label, 2
        one = evidence(heat=heat, explain=lambda label: maps[label], tile=tile, coverage=COVERS)
        return EVERY[name](one._replace(clean_heat=clean, clean_heat_of_target=target))

    check_grads(loss, (heat, other, tile), order=2, modes=["rev"], eps=1e-5, rtol=1e-6, atol=1e-8)
    gradients = jax.grad(loss, argnums=(0, 1, 2))(heat, other, tile)
    assert name == "classify" or max(float(abs(each).max()) for each in gradients) > 1e-3


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("clean", [CLEAN, jnp.zeros(SIDES)], ids=["clean", "blank"])
def test_an_all_zero_map_has_a_loss_and_a_gradient(name, clean):
    def loss(before, tile):
        heat = jax.nn.relu(before)
        one = evidence(heat=heat, explain=lambda label: heat, tile=tile, coverage=COVERS)
        return EVERY[name](one._replace(clean_heat=clean, clean_heat_of_target=clean))

    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    for start in (jnp.zeros(SIDES), jnp.full(SIDES, -1.0)):
        value, gradients = both(start, jnp.zeros((4, 4, 3)))
        np.testing.assert_array_equal(gradients[0], 0)
        assert np.isfinite(gradients[1]).all()
        if name in ("keep", "swap", "target_map"):  # nothing but a blank map is near a blank map
            assert np.isfinite(value) and (value > 0) == (name == "target_map" or clean.any())
        else:
            assert value == (name in ("highlight", "location", "target_cosine"))


@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_numbers_where_nothing_has_changed(name):
    def loss(heat, tile):
        one = evidence(heat=heat, explain=lambda label: heat, tile=tile, coverage=COVERS)
        return EVERY[name](one._replace(clean_heat=heat, clean_heat_of_target=heat))

    flat = jnp.full((4, 4, 3), 0.25)
    for gradient in jax.jit(jax.grad(loss, argnums=(0, 1)))(CLEAN, flat):
        assert np.isfinite(gradient).all()


def test_the_gradient_of_energy_at_an_all_zero_map_is_finite():
    gradient = jax.grad(energy)(jnp.zeros((2, 3)), COVERED)
    assert np.isfinite(gradient).all()


def test_the_gradient_of_energy():
    expected = (COVERED - 5 / 8) / 8
    np.testing.assert_allclose(jax.grad(energy)(HEAT, COVERED), expected, rtol=1e-5)


def test_the_names_of_the_objectives():
    functions = {
        "hide",
        "highlight",
        "classify",
        "paper",
        "subramanya",
        "centre-of-mass",
        "top-k",
        "keep",
        "swap",
        "rank-correlation",
        "total-variation",
    }
    assert OBJECTIVES.keys() == functions
    for name, loss in EVERY.items():
        assert loss.__name__ == name.replace("-", "_")  # as runs record it


def test_the_loss_of_ones_own_in_the_readme_runs(tiny, monkeypatch):
    readme = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    (block,) = (
        part for part in re.findall(r"```python\n(.*?)```", readme, re.S) if "centre" in part
    )
    loss = block[
        block.index("def ") : block.index("results = gcpatch.attack(", block.index("def "))
    ]
    assert len(loss.strip().splitlines()) < 10
    monkeypatch.setattr(gcpatch, "load", lambda name: tiny, raising=False)
    images = np.random.default_rng(1).random((1, 96, 96, 3)).astype(np.float32)
    monkeypatch.setattr(gcpatch, "read_image", lambda path, size: images[0], raising=False)
    names = {"images": images, "targets": [1], "image": images[0], "label": 2}
    block = block.replace("features.51", "features.4")
    exec(block.replace("gcpatch.Attack(", "gcpatch.Attack(steps=2, "), names)
    assert len(names["results"][0].history.total) == 2
