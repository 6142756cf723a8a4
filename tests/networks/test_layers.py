"""Layers against their definitions."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gcpatch.networks import layers


def random(seed, *shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))


@pytest.mark.parametrize("shape", [(7, 7), (1, 1), (5, 9), (14, 14), (13, 8), (8, 7)])
@pytest.mark.parametrize("size", [7, 1])
def test_adaptive_pool_bins_as_torch(shape, size):
    x = np.asarray(random(0, 2, *shape, 3))
    expected = np.zeros((2, size, size, 3), np.float32)
    bins = [  # each of them from where it starts to where it ends, rounded outwards
        [slice(int(np.floor(i * n / size)), int(np.ceil((i + 1) * n / size))) for i in range(size)]
        for n in shape
    ]
    for i, rows in enumerate(bins[0]):
        for j, columns in enumerate(bins[1]):
            expected[:, i, j] = x[:, rows, columns].mean((1, 2))
    out = layers.AdaptiveAveragePool(size)(jnp.asarray(x))
    np.testing.assert_allclose(out, expected, atol=1e-6)
    if shape == (size, size):
        np.testing.assert_array_equal(out, x)


def test_batch_norm_uses_stored_statistics_and_torch_s_epsilon():
    norm = layers.batch_norm(2, rngs=nnx.Rngs(0))
    norm.mean[...], norm.var[...] = jnp.asarray([1.0, 2.0]), jnp.asarray([0.0, 3e-5])
    norm.scale[...], norm.bias[...] = jnp.asarray([2.0, 3.0]), jnp.asarray([5.0, 7.0])
    x = np.asarray(random(0, 4, 2))
    expected = (x - [1, 2]) / np.sqrt([1e-5, 4e-5]) * [2, 3] + [5, 7]
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=1e-4)
