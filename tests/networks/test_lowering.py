"""Each platform's forms of convolution and pooling are XLA's, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gcpatch.networks import layers, lowering


def random(seed, *shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def assert_same_function(ours, oracle, *arguments):
    """Equal values, and equal gradients with respect to every argument."""
    tolerance = 1e-12 if arguments[0].dtype == np.float64 else 2e-5
    value, vjp = jax.vjp(ours, *arguments)
    expected, expected_vjp = jax.vjp(oracle, *arguments)
    assert value.dtype == arguments[0].dtype
    np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance)
    cotangent = random(9, *value.shape, dtype=value.dtype)
    for ours, theirs in zip(vjp(cotangent), expected_vjp(cotangent), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    "size, stride, padding, shape, dtype",
    [
        (2, 2, 0, (8, 6), "float32"),
        (2, 2, 0, (7, 9), "float64"),
        (3, 2, 1, (8, 8), "float32"),
        (3, 2, 1, (9, 5), "float64"),
        (3, 1, 1, (4, 4), "float32"),
    ],
)
def test_max_pool(size, stride, padding, shape, dtype, ties, x64):
    x = random(0, 2, *shape, 3, dtype=dtype) - 3  # below 0, where padding with 0 would win
    x = jnp.round(x) if ties else x

    def oracle(x):
        pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        window, strides = (1, size, size, 1), (1, stride, stride, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, pads)

    assert_same_function(jax.jit(layers.MaxPool(size, stride, padding)), jax.jit(oracle), x)


def test_max_pool_gives_the_gradient_of_a_tie_to_the_first():
    x = jnp.asarray([[1.0, 5.0, 5.0], [5.0, 0.0, 2.0], [5.0, 5.0, 5.0]])[..., None]
    gradient = jax.grad(lambda x: layers.MaxPool(3, 3)(x).sum())(x)[..., 0]
    np.testing.assert_array_equal(gradient, [[0, 1, 0], [0, 0, 0], [0, 0, 0]])


def test_max_pool_takes_any_leading_axes():
    x = random(0, 2, 3, 6, 6, 4)
    pool = layers.MaxPool(3, 2, 1)
    np.testing.assert_array_equal(pool(x)[1, 2], pool(x[1, 2]))


# Map, kernel (height, width, input and output channels), strides, padding, groups; and how many
# convolutions a CPU is given.
CONVOLUTIONS = {
    "plain": ((9, 8), (3, 3, 4, 6), (1, 1), (1, 1), 1, 1),
    "stem": ((17, 16), (7, 7, 3, 4), (2, 2), (3, 3), 1, 1),
    "1x1": ((5, 6), (1, 1, 4, 6), (1, 1), (0, 0), 1, 0),
    "1x1 strided": ((9, 8), (1, 1, 4, 6), (2, 2), (0, 0), 1, 0),
    "1x1 unevenly strided": ((9, 8), (1, 1, 4, 6), (3, 2), (0, 0), 1, 0),
    "1x1 padded": ((5, 6), (1, 1, 4, 6), (1, 1), (1, 1), 1, 1),
    "3x3 on a small map": ((7, 7), (3, 3, 4, 6), (1, 1), (1, 1), 1, 0),
    "3x3 on a small oblong map": ((3, 6), (3, 3, 4, 6), (1, 1), (1, 1), 1, 0),
    "3x3 on a small map, unpadded": ((7, 5), (3, 3, 4, 6), (1, 1), (0, 0), 1, 0),
    "3x3 on one pixel": ((1, 1), (3, 3, 4, 6), (1, 1), (1, 1), 1, 0),
    "3x3 strided on a small map": ((7, 6), (3, 3, 5, 6), (2, 2), (1, 1), 1, 0),
    "groups": ((9, 8), (3, 3, 2, 12), (1, 1), (1, 1), 3, 3),
    "groups strided": ((9, 8), (3, 3, 2, 6), (2, 2), (1, 1), 3, 3),
    "groups on a small map": ((5, 7), (3, 3, 2, 6), (1, 1), (1, 1), 3, 0),
}


@pytest.mark.parametrize(
    "case, dtype",
    [
        *((case, "float32") for case in CONVOLUTIONS),
        *((case, "float64") for case in CONVOLUTIONS),
    ],
)
def test_convolution(case, dtype, x64, accelerator):
    shape, kernel_shape, strides, pads, groups, on_cpu = CONVOLUTIONS[case]
    padding = tuple((pad, pad) for pad in pads)
    x = random(0, 2, *shape, kernel_shape[2] * groups, dtype=dtype)
    kernel = random(1, *kernel_shape, dtype=dtype)

    def ours(x, kernel):
        return lowering.conv(x, kernel, strides, padding, feature_group_count=groups)

    def oracle(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    assert_same_function(jax.jit(ours), jax.jit(oracle), x, kernel)
    on_cpu = on_cpu if dtype == "float32" else 0
    assert str(jax.make_jaxpr(ours)(x, kernel)).count("= conv_general_dilated[") == on_cpu
    accelerator()
    jaxpr = str(jax.make_jaxpr(lambda *arguments: ours(*arguments))(x, kernel))
    assert jaxpr.count("= conv_general_dilated[") == 1
    assert f"feature_group_count={groups}" in jaxpr
