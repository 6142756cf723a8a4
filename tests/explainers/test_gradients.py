"""The gradient family: by hand, as functions to vmap, jit and grad, and against the smooth net."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads
from tinies import double, scatter

from gcpatch.errors import UserError
from gcpatch.explainers import gradients, scores
from gcpatch.explainers.gradients import (
    gradient_x_input,
    guided_backprop,
    input_gradient,
    integrated_gradients,
    smoothgrad,
)
from gcpatch.interpreters.relu import smooth
from gcpatch.networks import VGG, Network, Preprocessing

noisy = partial(smoothgrad, key=jax.random.key(1), samples=3)
few = partial(integrated_gradients, steps=3)
EVERY = [input_gradient, gradient_x_input, noisy, few, guided_backprop]


class Square(Network):
    """y_c = c'ReLU(x - 0.5) + (d'x)^2 / 2 of one pixel's three colours."""

    def __init__(self):
        super().__init__("square", "all", ("a", "b"))
        self.preprocessing = Preprocessing((0.0,) * 3, (1.0,) * 3)
        self.linear = nnx.Param(jnp.asarray([[3.0, -1.0, 2.0], [0.0, 0.0, -5.0]]))

    def stages(self):
        def answer(x):
            x = x[..., 0, 0, :]
            linear = jax.nn.relu(x - 0.5) @ self.linear[...].T
            return linear + jnp.square(x @ jnp.asarray([1.0, 1.0, -1.0]))[..., None] / 2

        return {"all": answer}


SQUARE, PIXEL = Square(), jnp.asarray([0.75, 0.25, 1.0]).reshape(1, 1, 3)  # the square has slope 0


@pytest.mark.parametrize(
    ("method", "label", "wanted"),
    [
        (input_gradient, 0, 3.0),  # (3, 0, 2): the second ReLU is off
        (input_gradient, 1, 5.0),  # (0, 0, -5)
        (gradient_x_input, 0, 3 * 0.75 + 2 * 1),
        (gradient_x_input, 1, -5.0),
        (guided_backprop, 0, 3.0),
        (guided_backprop, 1, 0.0),  # what comes back to the ReLU is negative
        (partial(smoothgrad, key=jax.random.key(0), sigma=0.0), 1, 5.0),
    ],
)
def test_by_hand(method, label, wanted):
    np.testing.assert_allclose(method(SQUARE, PIXEL, label), [[wanted]], atol=1e-6)


def test_guided_backprop_by_hand_is_not_the_gradient_cut_at_the_end():
    # Behind a second layer the parts are cut one by one, before they are summed.
    first, second = jnp.asarray([[1.0, -1.0], [1.0, 1.0]]), jnp.asarray([1.0, -2.0])

    class Deep(Square):
        def stages(self):
            return {
                "all": lambda x: jnp.stack([jax.nn.relu(x[..., 0, 0, :2] @ first) @ second], -1)
            }

    image = jnp.asarray([0.2, 0.9, 0.0]).reshape(1, 1, 3)  # both units are on: 1.1 and 0.7
    # The gradient is first @ second = (1 + 2, 1 - 2); guided, first @ (1, 0) = (1, 1).
    np.testing.assert_allclose(input_gradient(Deep(), image, 0), [[3.0]], rtol=1e-6)
    np.testing.assert_allclose(guided_backprop(Deep(), image, 0), [[1.0]], rtol=1e-6)


@pytest.fixture(scope="module")
def deep():
    """A VGG without pooling, whose kinks would be in the way."""
    settings = {"plan": (4, 4), "normalized": False, "hidden": (6, 6), "rngs": nnx.Rngs(0)}
    return scatter(VGG("deep", ("a", "b"), **settings))


def test_integrated_gradients_sum_to_the_difference_of_the_scores(deep, x64):
    image = jnp.asarray(np.random.default_rng(1).random((8, 8, 3)))
    soft = smooth(double(deep), 3.0)
    grey, run = jnp.full_like(image, 0.5), jax.jit(lambda network, image: network(image))
    for score in (scores.logit, scores.log_softmax):
        heat = jax.jit(partial(integrated_gradients, steps=24, baseline=0.5, score=score))(
            soft, image, 1
        )
        change = score(run(soft, image), 1) - score(run(soft, grey), 1)
        np.testing.assert_allclose(heat.sum(), change, rtol=1e-6)


def test_smoothgrad_is_the_saliency_of_the_mean_gradient(tiny):
    image = jnp.asarray(np.random.default_rng(1).random((16, 16, 3), np.float32))
    run = jax.jit(partial(smoothgrad, samples=13, sigma=0.2))
    key = jax.random.key(2)
    found = run(tiny, image, 1, key=key)
    noise = 0.2 * jax.random.normal(key, (13, *image.shape))
    slope = jax.jit(jax.grad(lambda x: tiny(x)[1]))
    slopes = jnp.stack([slope(image + one) for one in noise])
    wanted = jnp.abs(slopes.mean(0)).max(-1)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5 * wanted.max())
    other = run(tiny, image, 1, key=jax.random.key(3))
    assert np.abs(other - found).max() > 0.01 * found.max()


def test_vmap_is_the_loop_and_jit_is_eager(tiny64):
    images = jnp.asarray(np.random.default_rng(4).random((2, 12, 12, 3)))
    labels = jnp.asarray([2, 0])

    def every(network, image, label):
        return [method(network, image, label) for method in EVERY]

    many, one = jax.jit(jax.vmap(every, (None, 0, 0))), jax.jit(every)
    found = many(tiny64, images, labels)
    looped = [one(tiny64, image, label) for image, label in zip(images, labels, strict=True)]
    for heats, *wanted, eager in zip(found, *looped, every(tiny64, images[1], 0), strict=True):
        for heat, alone in zip(heats, wanted, strict=True):
            assert heat.shape == (12, 12) and alone.any()
            np.testing.assert_allclose(heat, alone, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(eager, wanted[1], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("method", EVERY)
def test_second_order(method, x64):
    """A loss on the explanation of a smooth network: its gradient, and that one's."""
    network = Square()
    image, weight = jnp.asarray([0.8, 0.3, 0.9]).reshape(1, 1, 3).astype("float64"), 0.7
    explained = network if method is guided_backprop else smooth(network, 6.0)

    def loss(image):
        return jnp.square(weight * method(explained, image, 0, score=scores.log_softmax)).sum()

    assert np.abs(jax.grad(loss)(image)).max() > 1e-3
    check_grads(jax.jit(loss), (image,), order=2, modes=["rev"], atol=1e-5, rtol=1e-5)


def test_only_the_smooth_network_gives_a_loss_on_the_gradient_something_to_descend(deep):
    image = jnp.asarray(np.random.default_rng(1).random((8, 8, 3), np.float32))

    @jax.jit
    def slope(network):
        return jax.grad(lambda image: input_gradient(network, image, 0)[2:5, 2:5].sum())(image)

    assert not slope(deep).any()
    assert np.abs(slope(smooth(deep, 8.0))).max() > 1e-4


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="samples is 0"):
        smoothgrad(SQUARE, PIXEL, 0, key=jax.random.key(0), samples=0)
    with pytest.raises(UserError, match="steps is 0"):
        integrated_gradients(SQUARE, PIXEL, 0, steps=0)


def test_the_table_gives_smoothgrad_its_key():
    first, again = (gradients.METHODS["smoothgrad"](SQUARE, PIXEL, 0) for _ in range(2))
    np.testing.assert_array_equal(first, again)
