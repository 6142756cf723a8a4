import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcpatch import losses
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


@pytest.mark.parametrize("name", losses.OBJECTIVES)
def test_an_all_zero_map_has_a_loss_and_a_gradient(name):
    def loss(logit_of_heat):
        return losses.OBJECTIVES[name](evidence(heat=jax.nn.relu(logit_of_heat)))

    for start in (jnp.zeros((2, 3)), jnp.full((2, 3), -1.0)):
        value, gradient = jax.value_and_grad(loss)(start)
        assert value == (1 if name == "highlight" else 0)
        np.testing.assert_array_equal(gradient, 0)


def test_the_gradient_of_energy_at_an_all_zero_map_is_finite():
    gradient = jax.grad(energy)(jnp.zeros((2, 3)), COVERED)
    assert np.isfinite(gradient).all()


def test_the_gradient_of_energy():
    expected = (COVERED - 5 / 8) / 8
    np.testing.assert_allclose(jax.grad(energy)(HEAT, COVERED), expected, rtol=1e-5)


def test_the_names_of_the_objectives():
    assert losses.OBJECTIVES == {
        "hide": losses.hide,
        "highlight": losses.highlight,
        "classify": losses.classify,
        "paper": losses.paper,
        "subramanya": losses.subramanya,
    }
