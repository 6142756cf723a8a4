"""Layers that the networks share: convolution with a lowering for each platform, and pooling.

All layers take feature maps `[..., height, width, channel]` with any number of leading axes.
"""

import contextlib
import contextvars
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


_plain = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain():
    """While it lasts, layers are traced as one primitive each, whatever the platform."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def _written_for_cpu() -> bool:
    return jax.default_backend() == "cpu" and not _plain.get()


def conv(
    inputs, kernel, strides, padding, *, feature_group_count: int = 1, precision=None,
    rhs_dilation=(1, 1), **_: Any,
):  # fmt: skip
    """`lax.conv_general_dilated` in NHWC, written for the platform that runs it.

    XLA's convolutions are right on accelerators. On a CPU six cases are faster as something else:
    grouped kernels as one convolution a group, 1x1 kernels as a matrix product, 3x3 kernels on
    small maps, and float64, as shifted views and one matrix product, strided kernels on images as
    plain ones on blocks of pixels (whose gradient by the image is 6x faster), and kernels without
    padding as ones with it.
    """
    if _written_for_cpu() and set(rhs_dilation) == {1}:
        return _conv_cpu(inputs, kernel, strides, padding, feature_group_count, precision)
    return lax.conv_general_dilated(
        inputs, kernel, strides, padding, dimension_numbers=DIMENSIONS,
        feature_group_count=feature_group_count, precision=precision, rhs_dilation=rhs_dilation,
    )  # fmt: skip


def _conv_cpu(inputs, kernel, strides, padding, groups, precision):
    if inputs.dtype == jnp.float64:
        return _conv_of_views(inputs, kernel, strides, padding, precision, groups)
    if groups > 1:
        parts = zip(jnp.split(inputs, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        return jnp.concatenate(
            [_conv_cpu(x, k, strides, padding, 1, precision) for x, k in parts], axis=-1
        )
    height, width = kernel.shape[:2]
    unpadded = all(tuple(pad) == (0, 0) for pad in padding)
    if (height, width) == (1, 1) and unpadded:
        views = inputs[:, :: strides[0], :: strides[1]]
        return jnp.matmul(views, kernel[0, 0], precision=precision)
    if strides[0] == strides[1] > 1 and inputs.shape[-1] <= 4 and height == width:
        return _conv_of_blocks(inputs, kernel, strides[0], padding, precision)
    if (height, width) == (3, 3) and tuple(strides) == (1, 1) and max(inputs.shape[1:3]) <= 7:
        return _conv_of_views(inputs, kernel, strides, padding, precision)
    crop = 1 if unpadded and tuple(strides) == (1, 1) else 0  # 3x faster with any padding
    outputs = lax.conv_general_dilated(
        inputs, kernel, strides, ((0, 0), (crop, crop)) if crop else padding,
        dimension_numbers=DIMENSIONS, precision=precision,
    )  # fmt: skip
    return outputs[:, :, crop:-crop] if crop else outputs


def _conv_of_views(inputs, kernel, strides, padding, precision, groups=1):
    """A convolution as one matrix product (one a group) of shifted views of its inputs."""
    height, width = kernel.shape[:2]
    padded = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    rows, columns = padded.shape[1] - height + 1, padded.shape[2] - width + 1
    views = [
        padded[:, i : i + rows : strides[0], j : j + columns : strides[1]]
        for i, j in itertools.product(range(height), range(width))
    ]
    if groups == 1:
        flat = kernel.reshape(-1, kernel.shape[-1])
        return jnp.matmul(jnp.concatenate(views, axis=-1), flat, precision=precision)
    parts = [view.reshape(*view.shape[:3], groups, -1) for view in views]
    flat = kernel.reshape(-1, groups, kernel.shape[-1] // groups)
    outputs = jnp.einsum(
        "nhwgi,igo->nhwgo", jnp.concatenate(parts, axis=-1), flat, precision=precision
    )
    return outputs.reshape(*outputs.shape[:3], -1)


def _conv_of_blocks(inputs, kernel, stride, padding, precision):
    """A square strided convolution as a plain one on blocks of `stride` x `stride` pixels."""
    width = kernel.shape[0]
    blocks = -(-width // stride)
    pads = [(0, 0, 0), (0, 0, 0)]
    for length, (low, high) in zip(inputs.shape[1:3], padding, strict=True):
        outputs = (length + low + high - width) // stride + 1
        pads.insert(-1, (low, stride * (outputs - 1 + blocks) - length - low, 0))
    image = lax.pad(inputs, jnp.zeros((), inputs.dtype), pads)
    rows, columns = (length // stride for length in image.shape[1:3])
    image = image.reshape(-1, rows, stride, columns, stride, inputs.shape[-1])
    image = image.swapaxes(2, 3).reshape(-1, rows, columns, stride**2 * inputs.shape[-1])
    kernel = jnp.pad(kernel, [(0, blocks * stride - width)] * 2 + [(0, 0)] * 2)
    kernel = kernel.reshape(blocks, stride, blocks, stride, *kernel.shape[2:])
    kernel = kernel.swapaxes(1, 2).reshape(blocks, blocks, -1, kernel.shape[-1])
    return lax.conv_general_dilated(
        image, kernel, (1, 1), "VALID", dimension_numbers=DIMENSIONS, precision=precision
    )


def conv2d(
    features: int, channels: int, size: int, *, stride: int = 1, padding: int = 0,
    groups: int = 1, bias: bool = True, rngs: nnx.Rngs,
) -> nnx.Conv:  # fmt: skip
    """A square convolution with torch's meaning of `stride` and (symmetric) `padding`."""
    return nnx.Conv(
        features, channels, (size, size), strides=stride, padding=((padding, padding),) * 2,
        feature_group_count=groups, use_bias=bias, conv_general_dilated=conv, rngs=rngs,
    )  # fmt: skip


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
        return max_pool(x, (self.size,) * 2, (self.stride,) * 2, ((self.padding,) * 2,) * 2)


def max_pool(x, size, strides, padding):
    """Maximum over windows; `size`, `strides` and `padding` (low, high) are for both axes.

    On a CPU written as a tournament of shifted views: the same values and gradients (the first of
    equals wins), 3-10x faster backwards.
    """
    if not _written_for_cpu():
        return nnx.max_pool(x, tuple(size), tuple(strides), padding=tuple(padding))
    pads = ((0, 0),) * (x.ndim - 3) + (*padding, (0, 0))
    x = jnp.pad(x, pads, constant_values=-jnp.inf) if any(map(any, padding)) else x
    rows, columns = (
        (length - width) // stride * stride + 1
        for length, width, stride in zip(x.shape[-3:-1], size, strides, strict=True)
    )
    best = None
    for i, j in itertools.product(range(size[0]), range(size[1])):
        view = x[..., i : i + rows : strides[0], j : j + columns : strides[1], :]
        best = view if best is None else jnp.where(best >= view, best, view)
    return best


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
