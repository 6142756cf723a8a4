"""Layers that the networks share, with torch's settings: convolution, pooling, normalisation.

All layers take feature maps `[..., height, width, channel]` with any number of leading axes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from gcpatch.networks import lowering


def conv2d(
    features: int,
    channels: int,
    size: int,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    bias: bool = True,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A square convolution with torch's meaning of `stride` and (symmetric) `padding`."""
    return nnx.Conv(
        features,
        channels,
        (size, size),
        strides=stride,
        padding=((padding, padding),) * 2,
        feature_group_count=groups,
        use_bias=bias,
        conv_general_dilated=lowering.conv,
        rngs=rngs,
    )


def batch_norm(features: int, *, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """Batch normalisation with stored statistics and torch's epsilon, 1e-5."""
    return nnx.BatchNorm(features, use_running_average=True, momentum=0.9, epsilon=1e-5, rngs=rngs)


class ReLU(nnx.Module):
    """max(x, 0)."""

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jax.nn.relu(x)


class Dropout(nnx.Module):
    """Keeps torchvision's place for dropout; the identity, as it is outside training."""

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return x


class MaxPool(nnx.Module):
    """Maximum over square windows, with torch's meaning of `stride` and `padding`."""

    def __init__(self, size: int, stride: int, padding: int = 0):
        self.size, self.stride, self.padding = size, stride, padding

    def __call__(self, x: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h2 w2 c"]:
        return lowering.max_pool(
            x,
            size=(self.size,) * 2,
            strides=(self.stride,) * 2,
            padding=((self.padding,) * 2,) * 2,
        )


class AdaptiveAveragePool(nnx.Module):
    """Mean over `size` x `size` bins, cut as torch cuts them.

    Bin i of n over a length L is [floor(i L / n), ceil((i + 1) L / n)); bins may overlap, and the
    layer is the identity where L = n.
    """

    def __init__(self, size: int):
        self.size = size

    def __call__(self, x: Float[Array, "*batch h w c"]) -> Float[Array, "*batch size size c"]:
        rows, columns = (_bins(length, self.size, x.dtype) for length in x.shape[-3:-1])
        highest = lax.Precision.HIGHEST
        if rows is not None:
            x = jnp.einsum("ih,...hwc->...iwc", rows, x, precision=highest)
        if columns is not None:
            x = jnp.einsum("jw,...iwc->...ijc", columns, x, precision=highest)
        return x


def _bins(length: int, count: int, dtype) -> np.ndarray | None:
    """The averaging matrix `[count, length]` of an adaptive pool, None for the identity."""
    if length == count:
        return None
    matrix = np.zeros((count, length), dtype)
    for i in range(count):
        start, stop = i * length // count, -(-(i + 1) * length // count)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def linear_of_map(size: int, channels: int, features: int, *, rngs: nnx.Rngs) -> nnx.LinearGeneral:
    """A linear layer of a whole map `[..., size, size, channels]`."""
    return nnx.LinearGeneral(
        (size, size, channels), features, axis=(-3, -2, -1), dot_general=_flat_product, rngs=rngs
    )


def _flat_product(inputs, kernel, _, precision=None, **__):
    """A product of matrices, whose gradient transposes nothing (3x faster for VGG19's head)."""
    inputs, kernel = inputs.reshape(*inputs.shape[:-3], -1), kernel.reshape(-1, kernel.shape[-1])
    return jnp.matmul(inputs, kernel, precision=precision)


def stack(layers: Sequence[nnx.Module]) -> nnx.List:
    """Layers under torch's numbered names: `stack(...)[3]` is `<name>.3`."""
    return nnx.List(list(layers))
