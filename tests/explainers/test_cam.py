import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads
from jaxtyping import TypeCheckError

from gcpatch.explainers import scores
from gcpatch.explainers.cam import (
    METHODS,
    eigen_cam,
    grad_cam,
    grad_cam_plus_plus,
    hirescam,
    layercam,
    xgrad_cam,
)
from gcpatch.losses import energy
from gcpatch.networks import Network, Preprocessing


class Plain(Network):
    """y_c = sum W[c] * A behind two stages that double and then shift the three channels."""

    def __init__(self, weights, shift=(0.0, 0.0, 0.0)):
        super().__init__("plain", "shift", tuple("abcd"[: len(weights)]))
        self.preprocessing = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
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
WEIGHTS = np.stack(
    [
        channels([[4, 0], [0, 0]], [[-2, -2], [-2, -2]], [[1, 0], [0, 1]]),
        channels([[-1, -1], [-1, -1]], [[0, -4], [0, 0]], [[-2, 0], [0, -2]]),
    ]
)


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


def by_hand(method, activations, gradient):
    """Each map from A and g `[h, w, k]`, as published, channel by channel."""
    heat = np.zeros(activations.shape[:2])
    for a, g in zip(np.moveaxis(activations, -1, 0), np.moveaxis(gradient, -1, 0), strict=True):
        positive = np.maximum(g, 0)
        heat += {
            grad_cam: lambda a, g, _: g.mean() * a,
            hirescam: lambda a, g, _: g * a,
            grad_cam_plus_plus: lambda a, g, p: (p / (2 + a.sum() * p)).sum() * a,
            xgrad_cam: lambda a, g, _: (g * a).sum() / a.sum() * a,
            layercam: lambda a, g, p: p * a,
        }[method](a, g, positive)
    return np.maximum(heat, 0)


@pytest.mark.parametrize("method", [grad_cam, hirescam, grad_cam_plus_plus, xgrad_cam, layercam])
@pytest.mark.parametrize("label", [0, 1])
def test_maps_by_hand(plain, method, label):
    wanted = by_hand(method, 2 * np.asarray(IMAGE), WEIGHTS[label])
    options = {"epsilon": 0.0} if method is grad_cam_plus_plus else {}
    np.testing.assert_allclose(method(plain, IMAGE, label, **options), wanted, rtol=1e-5, atol=1e-6)


def test_literal_maps_of_the_family(plain):
    # g^0 = 4 at the top left, where A is 0; g^2 = 1 on the diagonal, where A is 0.5 and 2.
    np.testing.assert_allclose(layercam(plain, IMAGE, 0), [[0.5, 0], [0, 2]], rtol=1e-6)
    # and g^1 = -2 everywhere: -2 in the upper row of hirescam.
    np.testing.assert_allclose(hirescam(plain, IMAGE, 0), [[0, 0], [0, 2]], rtol=1e-6)
    # w = (0, -2, (0.5 + 2) / 3.5) on A = 2 * IMAGE
    wanted = 2 * np.asarray(IMAGE) @ [0, -2, 2.5 / 3.5]
    np.testing.assert_allclose(xgrad_cam(plain, IMAGE, 0), np.maximum(wanted, 0), rtol=1e-5)
    # w = (4 / (2 + 3.5 * 4), 0, 2 * 1 / (2 + 3.5 * 1))
    wanted = 2 * np.asarray(IMAGE) @ [0.25, 0, 2 / 5.5]
    np.testing.assert_allclose(grad_cam_plus_plus(plain, IMAGE, 0), wanted, rtol=1e-5)


def test_eigen_cam_is_the_first_principal_component_with_its_peak_positive(x64):
    generator = np.random.default_rng(6)
    for height, width in ((5, 4), (1, 2)):  # more places than channels, and fewer
        network = Plain(generator.normal(size=(2, height, width, 3)))
        image = generator.random((height, width, 3))
        x = 2 * image.reshape(-1, 3)
        x = x - x.mean(0)
        left, sizes, _ = np.linalg.svd(x, full_matrices=False)
        wanted = sizes[0] * left[:, 0]
        wanted = wanted * np.sign(wanted[np.abs(wanted).argmax()])
        for label in (0, 1):
            heat = eigen_cam(network, image, label)
            wanted_heat = np.maximum(wanted, 0).reshape(height, width)
            np.testing.assert_allclose(heat, wanted_heat, rtol=1e-10, atol=1e-12)


def test_eigen_cam_has_no_gradient_where_the_component_is_not_unique(x64):
    network = Plain(np.ones((1, 3, 3, 3)))
    flat = jnp.full((3, 3, 3), 0.5)
    assert not eigen_cam(network, flat, 0).any()
    assert np.isnan(jax.grad(lambda image: eigen_cam(network, image, 0).sum())(flat)).any()


@pytest.mark.parametrize("score", [scores.logit, scores.log_softmax, scores.margin])
def test_the_score_is_what_is_explained(x64, score):
    network, image = Plain(WEIGHTS.astype(np.float64)), IMAGE.astype(np.float64)
    odds = jax.nn.softmax(network(image))
    gradient = {
        scores.logit: WEIGHTS[0],
        scores.log_softmax: (1 - odds[0]) * (WEIGHTS[0] - WEIGHTS[1]),
        scores.margin: WEIGHTS[0] - WEIGHTS[1],
    }[score]
    wanted = by_hand(hirescam, 2 * np.asarray(image), np.asarray(gradient))
    assert wanted.any()
    np.testing.assert_allclose(hirescam(network, image, 0, score=score), wanted, rtol=1e-10)


def test_the_layer_s_own_activations_count(plain):
    shifted = Plain(WEIGHTS, shift=(0.0, -1.0, 0.0))
    expected = [[2 * (-1 + 0.125) + 2, 2 * (0.5 - 1) + 2], [2 * 1.25 + 2, 2 * 0.75 + 2]]
    np.testing.assert_allclose(grad_cam(shifted, IMAGE, 0), expected, rtol=1e-6)
    # Behind "double" alpha is the same and A lacks the shift, so that the map is that of `plain`.
    np.testing.assert_allclose(
        grad_cam(shifted, IMAGE, 0, layer="double"), grad_cam(plain, IMAGE, 0), rtol=1e-6
    )


def test_logits_come_along(plain):
    trunk, head = plain.split()
    logits, heat = grad_cam.logits_and_map(head, trunk(IMAGE), 0)
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


def test_vmap_and_jit_are_the_loop(tiny64):
    images, labels = pixels(3, 16, 16, 3, dtype=np.float64), jnp.asarray([2, 0, 1])

    def every(network, image, label):
        return {name: method(network, image, label) for name, method in METHODS.items()}

    one, many = jax.jit(every), jax.jit(jax.vmap(every, (None, 0, 0)))(tiny64, images, labels)
    looped = [one(tiny64, image, label) for image, label in zip(images, labels, strict=True)]
    eager = every(tiny64, images[0], 2)
    for name, heats in many.items():
        wanted = [found[name] for found in looped]
        np.testing.assert_allclose(heats, wanted, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(wanted[0], eager[name], rtol=1e-10, atol=1e-14)
        assert len({round(float(heat.sum()), 5) for heat in heats}) > 1


@pytest.mark.parametrize("method", METHODS.values())
def test_the_gradient_of_the_map(x64, method):
    generator = np.random.default_rng(2)
    network = Smooth(generator.normal(size=(2, 3, 4, 3)))
    image = jnp.asarray(generator.uniform(-0.3, 1, size=(3, 4, 3)))  # so that all maps are cut
    weight = jnp.asarray(generator.normal(size=(3, 4)))
    options = {} if method is eigen_cam else {"score": scores.log_softmax}

    def heat(image):
        return method(network, image, 1, **options)

    def loss(image):
        return (weight * heat(image)).sum()

    assert 0 < (heat(image) > 0).mean() < 1
    check_grads(jax.jit(loss), (image,), order=2, modes=["rev"], atol=1e-5, rtol=1e-5)


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
