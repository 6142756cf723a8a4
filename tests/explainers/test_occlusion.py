"""Occlusion through the incremental engine is the naive loop, for whatever network and window."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tinies import double

import gcpatch
from gcpatch.data import scenes
from gcpatch.errors import UserError
from gcpatch.explainers import scores
from gcpatch.explainers.occlusion import occlusion, windows_over
from gcpatch.interpreters.relu import smooth
from gcpatch.networks import MINIS, Network, operations
from gcpatch.networks.lowering import conv, max_pool

run = jax.jit(lambda network, image: network(image))


def naive(network, image, label, window, stride, baseline=0.0, score=scores.logit):
    """The definition: cover, run, subtract; each pixel gets the mean of the windows over it."""
    height, width = image.shape[:2]
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for i in [*range(0, height - window, stride), height - window]:
        for j in [*range(0, width - window, stride), width - window]:
            covered = np.array(image)
            covered[i : i + window, j : j + window] = baseline
            place = np.s_[i : i + window, j : j + window]
            total[place] += score(run(network, image), label) - score(run(network, covered), label)
            count[place] += 1
    return total / count


def pixels(height, width, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random((height, width, 3)))


def padded_pooled_and_shuffled(x):
    """Operations of imported networks, each with a rule of its own."""
    how = {"size": [3, 2], "strides": [2, 1], "padding": [[0, 1], [1, 0]], "ceil": False}
    x = operations.pad(x, padding=[[0, 1], [1, 0]], value=0.0)
    x = operations.avg_pool2d(x, **how, count_padding=True)
    x = operations.concatenate(x, operations.silu(x), axis=-1)
    x = operations.transpose(operations.unflatten(x, axis=-1, sizes=[2, 3]), order=[-4, -3, -1, -2])
    x = operations.flatten(x, start=-2, stop=-1)[..., :3]
    return operations.layer_norm(x, epsilon=1e-3, axes=[-1])


class Odd(Network):
    """What the networks do not have: dilation, maxima behind padding, stages without a rule."""

    def __init__(self, behind):
        super().__init__("odd", "conv", ("a", "b"))
        self.kernel = nnx.Param(jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 3, 3))))
        self.behind = behind

    def stages(self):
        def wide(x):
            return conv(x, self.kernel[...], (2, 1), ((3, 0), (1, 2)), rhs_dilation=(2, 1))

        def last(x):
            match self.behind:
                case "unknown":
                    x = x - x.mean((1, 2), keepdims=True)
                case "graph":
                    x = padded_pooled_and_shuffled(x)
                case _:
                    x = jnp.tanh(x)
            x = conv(x, self.kernel[...], (1, 2), ((2, 2), (0, 0)))
            return x.reshape(x.shape[0], -1)[:, ::7][:, :2]

        return {
            "conv": wide,
            "pool": lambda x: max_pool(x, (3, 3), (2, 1), ((1, 1), (1, 1))),
            "sum": lambda x: x + conv(x, self.kernel[...], (1, 1), ((1, 1), (1, 1))),
            "last": last,
        }

    def __call__(self, image):
        return super().__call__(image[None])[0] if image.ndim == 3 else super().__call__(image)


@pytest.mark.parametrize(
    ("shape", "window", "stride"),
    [((16, 16), 4, 4), ((17, 14), 5, 3), ((13, 19), 13, 2), ((12, 12), 1, 1)],
)
def test_a_vgg(tiny64, shape, window, stride):
    image = pixels(*shape)
    heat = occlusion(tiny64, image, 1, window=window, stride=stride)
    assert heat.shape == shape
    np.testing.assert_allclose(heat, naive(tiny64, image, 1, window, stride), rtol=0, atol=1e-12)


@pytest.mark.parametrize("behind", ["tanh", "unknown", "graph"])
def test_dilation_padding_and_operations_without_a_rule(behind, x64):
    network, image = Odd(behind), pixels(21, 18)
    heat = occlusion(network, image, 0, window=4, stride=3, baseline=0.5)
    wanted = naive(network, image, 0, 4, 3, 0.5)
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(heat, wanted, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", MINIS)
def test_a_mini(name, x64):
    network, scene = double(gcpatch.load(name)), scenes.draw(jax.random.key(1), 64)
    image, label = scene.image.astype("float64"), scene.label
    colour, score = np.array([0.1, 0.5, 0.9]), scores.margin
    heat = occlusion(network, image, label, baseline=colour, score=score)
    wanted = naive(network, image, label, 16, 8, colour, score)
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(heat, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


def test_a_network_whose_rectifier_has_no_rule(tiny64):
    network, image = smooth(tiny64, 5.0), pixels(12, 12)
    heat = occlusion(network, image, 1, window=6, stride=3)
    np.testing.assert_allclose(heat, naive(network, image, 1, 6, 3), rtol=0, atol=1e-12)


def test_one_program_serves_all_windows_and_most_of_a_network_is_not_put_together(tiny64):
    windows = windows_over(tiny64, pixels(64, 64), window=16, stride=8)
    program, rows, columns = windows.slid
    inside = [operation.inside for operation in program.operations if operation]
    # normalisation (2), convolution, bias, ReLU, pooling, convolution, bias, ReLU
    count = inside.index(False)
    assert count >= 9 and not any(inside[count:])
    assert rows.shape == columns.shape == (7, len(rows[0]), 3)


def test_a_function_to_jit_vmap_and_grad(tiny64):
    method = partial(occlusion, window=6, stride=6)
    images, labels = jnp.stack([pixels(12, 12), pixels(12, 12, 1)]), jnp.asarray([0, 2])
    many = jax.jit(jax.vmap(method, (None, 0, 0)))(tiny64, images, labels)
    for heat, image, label in zip(many, images, labels, strict=True):
        np.testing.assert_allclose(heat, method(tiny64, image, label), rtol=0, atol=1e-12)

    def full(image):
        total = 0.0
        for i, j in ((0, 0), (0, 6), (6, 0), (6, 6)):
            covered = image.at[i : i + 6, j : j + 6].set(0)
            total += (i + 2 * j + 1) * 36 * (tiny64(image)[0] - tiny64(covered)[0])
        return total

    weight = jnp.asarray([[1.0, 13.0], [7.0, 19.0]]).repeat(6, 0).repeat(6, 1)

    def fast(image):
        return (weight * method(tiny64, image, 0)).sum()

    found, wanted = jax.jit(jax.grad(fast))(images[0]), jax.jit(jax.grad(full))(images[0])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-11 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("window", "stride", "message"),
    [
        (17, 8, "the window is 17 pixels; it must be 1 to 16"),
        (0, 1, "the window is 0"),
        (4, 5, "the stride is 5 pixels; it must be 1 to 4"),
        (4, 0, "the stride is 0"),
    ],
)
def test_windows_that_do_not_fit_are_refused(tiny, window, stride, message):
    with pytest.raises(UserError, match=message):
        occlusion(tiny, jnp.ones((16, 16, 3)), 0, window=window, stride=stride)
