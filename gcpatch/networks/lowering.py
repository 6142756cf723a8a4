"""Convolution and pooling, each in the form that is fast on the platform that runs it.

`_on_this_platform` is the one place that asks for the platform. XLA's own operations are right on
accelerators; a CPU has forms of its own, with the same values and gradients.
"""

import contextlib
import contextvars
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

DIMENSIONS = ("NHWC", "HWIO", "NHWC")  # of a convolution's inputs, kernel and outputs
Padding = Sequence[Sequence[int]]  # (low, high) of rows and of columns

_plain = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """While it lasts, layers are traced as one primitive each, whatever the platform."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def _on_this_platform(form: Callable, *, cpu: Callable) -> Callable:
    """The form of an operation that this platform gets: `cpu` on a CPU, `form` elsewhere."""
    return cpu if jax.default_backend() == "cpu" and not _plain.get() else form


def conv(
    inputs: Float[Array, "n h w c"],
    kernel: Float[Array, "rows columns c_of_group features"],
    strides: Sequence[int],
    padding: Padding,
    *,
    feature_group_count: int = 1,
    precision: Any = None,
    rhs_dilation: Sequence[int] = (1, 1),
    **_: Any,
) -> Float[Array, "n h2 w2 features"]:
    """`lax.conv_general_dilated` in NHWC, in this platform's form.

    The names are JAX's, so that NNX can call it; what else NNX passes has no part in the networks.
    """
    form = _on_this_platform(_conv, cpu=_conv_on_cpu)
    return form(
        inputs,
        kernel,
        strides=strides,
        padding=padding,
        groups=feature_group_count,
        dilation=rhs_dilation,
        precision=precision,
    )


def max_pool(
    x: Float[Array, "*batch h w c"],
    size: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
) -> Float[Array, "*batch h2 w2 c"]:
    """Maximum over windows, in this platform's form; all settings are of rows and of columns."""
    form = _on_this_platform(_max_pool, cpu=_max_pool_on_cpu)
    return form(x, size=size, strides=strides, padding=padding)


def sum_pool(
    x: Float[Array, "*batch h w c"],
    size: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
) -> Float[Array, "*batch h2 w2 c"]:
    """Sum over windows, in this platform's form; all settings are of rows and of columns."""
    form = _on_this_platform(_sum_pool, cpu=_sum_pool_on_cpu)
    return form(x, size=size, strides=strides, padding=padding)


# ---- the forms of a convolution


def _conv(inputs, kernel, *, strides, padding, groups=1, dilation=(1, 1), precision):
    return lax.conv_general_dilated(
        inputs,
        kernel,
        window_strides=strides,
        padding=padding,
        dimension_numbers=DIMENSIONS,
        feature_group_count=groups,
        rhs_dilation=dilation,
        precision=precision,
    )


def _conv_on_cpu(inputs, kernel, *, strides, padding, groups, dilation, precision):
    """Seven cases are faster as something else than as XLA's convolution.

    They are depthwise kernels as sums of shifted views, other grouped kernels as one convolution a
    group, 1x1 kernels as a matrix product, 3x3 kernels on small maps, and float64, as shifted views
    and one matrix product, strided kernels on images as plain ones on blocks of pixels (whose
    gradient by the image is 6x faster), and kernels without padding as ones with it.
    """
    how = {"strides": strides, "padding": padding, "precision": precision}
    if set(dilation) != {1}:
        return _conv(inputs, kernel, groups=groups, dilation=dilation, **how)
    if groups > 1 and groups == inputs.shape[-1]:
        return _conv_of_channels(inputs, kernel, strides=strides, padding=padding)
    if inputs.dtype == jnp.float64:
        return _conv_of_views(inputs, kernel, groups=groups, **how)
    if groups > 1:
        parts = zip(jnp.split(inputs, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        outputs = [_conv_on_cpu(x, k, groups=1, dilation=dilation, **how) for x, k in parts]
        return jnp.concatenate(outputs, axis=-1)
    height, width = kernel.shape[:2]
    unpadded = all(tuple(pad) == (0, 0) for pad in padding)
    if (height, width) == (1, 1) and unpadded:
        views = inputs[:, :: strides[0], :: strides[1]]
        return jnp.matmul(views, kernel[0, 0], precision=precision)
    if strides[0] == strides[1] > 1 and inputs.shape[-1] <= 4 and height == width:
        return _conv_of_blocks(inputs, kernel, **how)
    if (height, width) == (3, 3) and max(inputs.shape[1:3]) <= 7:
        return _conv_of_views(inputs, kernel, groups=1, **how)
    if unpadded and tuple(strides) == (1, 1):  # 3x faster with any padding
        outputs = _conv(inputs, kernel, **how | {"padding": ((0, 0), (1, 1))})
        return outputs[:, :, 1:-1]
    return _conv(inputs, kernel, **how)


def _conv_of_views(inputs, kernel, *, strides, padding, groups, precision):
    """A convolution as one matrix product (one a group) of shifted views of its inputs."""
    height, width = kernel.shape[:2]
    views = list(_views(inputs, (height, width), strides, padding))
    if groups == 1:
        flat = kernel.reshape(-1, kernel.shape[-1])
        return jnp.matmul(jnp.concatenate(views, axis=-1), flat, precision=precision)
    parts = [view.reshape(*view.shape[:3], groups, -1) for view in views]
    flat = kernel.reshape(-1, groups, kernel.shape[-1] // groups)
    outputs = jnp.einsum(
        "nhwgi,igo->nhwgo", jnp.concatenate(parts, axis=-1), flat, precision=precision
    )
    return outputs.reshape(*outputs.shape[:3], -1)


def _conv_of_channels(inputs, kernel, *, strides, padding):
    """A depthwise convolution as a sum of shifted views, each times its row of the kernel."""
    repeats = kernel.shape[-1] // inputs.shape[-1]
    inputs = inputs if repeats == 1 else jnp.repeat(inputs, repeats, -1)
    views = _views(inputs, kernel.shape[:2], strides, padding)
    products = (
        view * row for view, row in zip(views, kernel.reshape(-1, kernel.shape[-1]), strict=True)
    )
    return functools.reduce(jnp.add, products)


def _conv_of_blocks(inputs, kernel, *, strides, padding, precision):
    """A square strided convolution as a plain one on blocks of `stride` x `stride` pixels."""
    width, stride = kernel.shape[0], strides[0]
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
    return _conv(image, kernel, strides=(1, 1), padding="VALID", precision=precision)


# ---- the forms of a maximum over windows


def _max_pool(x, *, size, strides, padding):
    return nnx.max_pool(x, tuple(size), tuple(strides), padding=tuple(padding))


def _sum_pool(x, *, size, strides, padding):
    one = (1,) * (x.ndim - 3)
    pads = ((0, 0),) * (x.ndim - 3) + (*map(tuple, padding), (0, 0))
    zero = np.zeros((), x.dtype)
    return lax.reduce_window(x, zero, lax.add, (*one, *size, 1), (*one, *strides, 1), pads)


def _sum_pool_on_cpu(x, *, size, strides, padding):
    return functools.reduce(jnp.add, _views(x, size, strides, padding))


def _max_pool_on_cpu(x, *, size, strides, padding):
    """A tournament of shifted views, where the first of equals wins; 3-10x faster backwards."""
    views = _views(x, size, strides, padding, -jnp.inf)
    return functools.reduce(lambda best, view: jnp.where(best >= view, best, view), views)


def _views(x, size, strides, padding, fill=0):
    """What a window sees at each of its cells in turn, as it slides over a padded map."""
    pads = ((0, 0),) * (x.ndim - 3) + (*padding, (0, 0))
    x = jnp.pad(x, pads, constant_values=fill) if any(map(any, padding)) else x
    rows, columns = (
        (length - width) // stride * stride + 1
        for length, width, stride in zip(x.shape[-3:-1], size, strides, strict=True)
    )
    for i, j in itertools.product(range(size[0]), range(size[1])):
        yield x[..., i : i + rows : strides[0], j : j + columns : strides[1], :]
