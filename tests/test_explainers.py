import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads
from jaxtyping import TypeCheckError

from gcpatch.explainers import grad_cam, logits_and_grad_cam
from gcpatch.losses import energy
from gcpatch.networks import Network


class Plain(Network):
    """y_c = sum W[c] * A behind two stages that double and then shift the three channels."""

    def __init__(self, weights, shift=(0.0, 0.0, 0.0)):
        super().__init__("plain", "shift", tuple("abcd"[: len(weights)]))
        self.mean, self.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        self.weights, self.offset = nnx.Param(jnp.asarray(weights)), nnx.Param(jnp.asarray(shift))

    def stages(self):
        return {
            "double": lambda x: 2 * x,
            "shift": lambda x: x + self.offset[...],
            "fc": lambda x: jnp.einsum("...hwk,chwk->...c", x, self.weights[...]),
        }


class Smooth(Plain):
    """The same with a tanh before the weights, so that alpha depends on the image."""

    def stages(self):
        return {**super().stages(), "fc": lambda x: super(Smooth, self).stages()["fc"](jnp.tanh(x))}


def channels(*maps):
    return jnp.stack([jnp.asarray(m, jnp.float32) for m in maps], -1)


IMAGE = channels([[0.0, 0.5], [1.0, 0.25]], [[0.5, 0.5], [0.0, 0.0]], [[0.25, 0.0], [0.5, 1.0]])
# The means of these weights over the four places, which are alpha: 1, -2, 0.5 and -1, -1, -1.
WEIGHTS = np.stack([
    channels([[4, 0], [0, 0]], [[-2, -2], [-2, -2]], [[1, 0], [0, 1]]),
    channels([[-1, -1], [-1, -1]], [[0, -4], [0, 0]], [[-2, 0], [0, -2]]),
])  # fmt: skip


@pytest.fixture(scope="module")
def plain():
    return Plain(WEIGHTS)


def pixels(*shape, seed=0, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape).astype(dtype))


def test_literal_map(plain):
    # 2 * (1 * A_0 - 2 * A_1 + 0.5 * A_2), where that is over 0
    expected = [[0.0, 0.0], [2 * (1 + 0.25), 2 * (0.25 + 0.5)]]
    np.testing.assert_allclose(grad_cam(plain, IMAGE, 0), expected, rtol=1e-6)


def test_a_map_where_nothing_speaks_for_the_class_is_zero(plain):
    np.testing.assert_array_equal(grad_cam(plain, IMAGE, 1), np.zeros((2, 2)))


def test_the_layer_s_own_activations_count(plain):
    shifted = Plain(WEIGHTS, shift=(0.0, -1.0, 0.0))
    expected = [[2 * (-1 + 0.125) + 2, 2 * (0.5 - 1) + 2], [2 * 1.25 + 2, 2 * 0.75 + 2]]
    np.testing.assert_allclose(grad_cam(shifted, IMAGE, 0), expected, rtol=1e-6)
    # Behind "double" alpha is the same and A lacks the shift, so that the map is that of `plain`.
    np.testing.assert_allclose(
        grad_cam(shifted, IMAGE, 0, layer="double"), grad_cam(plain, IMAGE, 0), rtol=1e-6
    )


def test_logits_come_along(plain):
    logits, heat = logits_and_grad_cam(plain.split()[1], plain.split()[0](IMAGE), 0)
    np.testing.assert_allclose(logits, plain(IMAGE), rtol=1e-6)
    np.testing.assert_array_equal(heat, grad_cam(plain, IMAGE, 0))


@pytest.mark.parametrize("layer, side", [(None, 16), ("features.1", 32), ("features.5", 8)])
def test_the_map_has_the_layer_s_resolution(tiny, layer, side):
    image = pixels(32, 32, 3)
    heat = jax.jit(grad_cam, static_argnames="layer")(tiny, image, 2, layer=layer)
    assert heat.shape == (side, side)
    assert heat.min() >= 0 and heat.max() > 0


def test_a_convolutional_network_against_finite_differences(tiny64):
    image = pixels(32, 32, 3, dtype=np.float64)
    trunk, head = tiny64.split()
    activations = trunk(image)
    run, alpha = jax.jit(head), np.zeros(activations.shape[-1])
    for k in range(len(alpha)):  # the sum of a channel's gradient is its slope when all of it moves
        nudge = 1e-6 * np.eye(len(alpha))[k]
        alpha[k] = (run(activations + nudge)[1] - run(activations - nudge)[1]) / 2e-6
    expected = np.maximum((activations * alpha / 16**2).sum(-1), 0)
    assert expected.max() > 0
    heat = grad_cam(tiny64, image, 1)
    np.testing.assert_allclose(heat, expected, rtol=1e-5, atol=1e-6 * expected.max())


def test_vmap_and_jit_are_the_loop(tiny):
    images, labels = pixels(3, 32, 32, 3), jnp.asarray([2, 0, 1])
    one = jax.jit(grad_cam)
    many = jax.jit(jax.vmap(grad_cam, (None, 0, 0)))(tiny, images, labels)
    for heat, image, label in zip(many, images, labels, strict=True):
        np.testing.assert_allclose(heat, one(tiny, image, label), rtol=1e-4, atol=1e-6)
    eager = grad_cam(tiny, images[0], 2)
    np.testing.assert_allclose(one(tiny, images[0], 2), eager, rtol=1e-4, atol=1e-6)
    assert len({round(float(heat.sum()), 5) for heat in many}) == 3


def test_the_gradient_of_the_map(x64):
    generator = np.random.default_rng(2)
    network = Smooth(generator.normal(size=(2, 3, 4, 3)))
    image = jnp.asarray(generator.uniform(size=(3, 4, 3)))
    weight = jnp.asarray(generator.normal(size=(3, 4)))

    def loss(image):
        return (weight * grad_cam(network, image, 1)).sum()

    assert 0 < (grad_cam(network, image, 1) > 0).mean() < 1
    check_grads(loss, (image,), order=2, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", [Plain, Smooth])
def test_the_gradient_through_an_all_zero_map_is_no_nan(kind):
    network = kind(WEIGHTS)

    def loss(image):
        return energy(grad_cam(network, image, 1), jnp.asarray([[1.0, 0.5], [0.0, 0.0]]))

    value, gradient = jax.value_and_grad(loss)(IMAGE + 0.1)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_shapes_are_checked_while_the_tests_run(plain):
    with pytest.raises(TypeCheckError, match="image"):
        grad_cam(plain, IMAGE[None], 0)
    with pytest.raises(TypeCheckError, match="label"):
        grad_cam(plain, IMAGE, jnp.asarray([0, 1]))
