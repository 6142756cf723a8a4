"""What the nodes of a graph compute: each operation by name, with torch's meaning of its settings.

Feature maps are `[..., height, width, channel]`; every operation takes any number of leading axes,
so axes are counted from the last one. Arrays come first, parameters and settings by keyword.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from gcpatch.networks import layers, lowering

Values = Float[Array, "..."]
Map = Float[Array, "*batch h w c"]
Outputs = Float[Array, "*batch h2 w2 c2"]
Pair = Sequence[int]
Number = float | int


# ---- layers with weights


def conv2d(
    x: Map,
    *,
    kernel: Values,
    bias: Values | None = None,
    strides: Pair,
    padding: Sequence[Pair],
    dilation: Pair,
    groups: int,
) -> Outputs:
    """A convolution with a kernel `[rows, columns, in, out]`; `padding` is (low, high) by axis."""
    outputs = lowering.conv(
        x.reshape(-1, *x.shape[-3:]),
        kernel,
        tuple(strides),
        tuple(map(tuple, padding)),
        feature_group_count=groups,
        rhs_dilation=tuple(dilation),
    )
    outputs = outputs.reshape(*x.shape[:-3], *outputs.shape[1:])
    return outputs if bias is None else outputs + bias


def linear(x: Values, *, kernel: Values, bias: Values | None = None) -> Values:
    """A product of the last axis with a kernel `[in, out]`."""
    outputs = jnp.matmul(x, kernel)
    return outputs if bias is None else outputs + bias


def batch_norm(
    x: Values,
    *,
    mean: Values,
    var: Values,
    scale: Values | None = None,
    bias: Values | None = None,
    epsilon: Number,
) -> Values:
    """Normalisation of the last axis by stored statistics."""
    factor = lax.rsqrt(var + epsilon)
    return _affine((x - mean) * (factor if scale is None else factor * scale), None, bias)


def layer_norm(
    x: Values,
    *,
    scale: Values | None = None,
    bias: Values | None = None,
    epsilon: Number,
    axes: Sequence[int],
) -> Values:
    """Normalisation over the last axes."""
    return _affine(_standardize(x, tuple(axes), epsilon), scale, bias)


def group_norm(
    x: Values,
    *,
    scale: Values | None = None,
    bias: Values | None = None,
    epsilon: Number,
    groups: int,
    rank: int,
) -> Values:
    """Normalisation over groups of channels and all of the map; of an example of `rank` axes."""
    parts = x.reshape(*x.shape[:-1], groups, -1)
    axes = (*range(-rank - 1, -2), -1)
    return _affine(_standardize(parts, axes, epsilon).reshape(x.shape), scale, bias)


def _standardize(x, axes, epsilon):
    centred = x - x.mean(axes, keepdims=True)
    return centred * lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + epsilon)


def _affine(x, scale, bias):
    x = x if scale is None else x * scale
    return x if bias is None else x + bias


# ---- pooling


def max_pool2d(
    x: Map, *, size: Pair, strides: Pair, padding: Sequence[Pair], ceil: bool
) -> Outputs:
    """The maximum over windows; `ceil` lets the last one hang over the map's end."""
    pads = _pads(x, size, strides, padding, ceil)
    return lowering.max_pool(x, size=tuple(size), strides=tuple(strides), padding=pads)


def avg_pool2d(
    x: Map,
    *,
    size: Pair,
    strides: Pair,
    padding: Sequence[Pair],
    ceil: bool,
    count_padding: bool,
    divisor: int | None = None,
) -> Outputs:
    """The mean over windows, of `divisor` values, or of as many as they see; padding may count."""
    pads = _pads(x, size, strides, padding, ceil)
    total = lowering.sum_pool(x, size=tuple(size), strides=tuple(strides), padding=pads)
    if divisor is not None:
        return total / divisor
    counts = []
    for i, length in enumerate(x.shape[-3:-1]):
        low, high = padding[i] if count_padding else (0, 0)
        starts = np.arange(total.shape[i - 3]) * strides[i] - padding[i][0]
        counts.append(np.minimum(starts + size[i], length + high) - np.maximum(starts, -low))
    rows, columns = counts
    if len({*rows.tolist()}) == len({*columns.tolist()}) == 1:
        return total / int(rows[0] * columns[0])
    return total / jnp.asarray(np.outer(rows, columns)[..., None], x.dtype)


def _pads(x, size, strides, padding, ceil) -> lowering.Padding:
    """The padding that windows need, with more at the end where the last one hangs over."""
    pads = []
    for length, width, stride, (low, high) in zip(
        x.shape[-3:-1], size, strides, padding, strict=True
    ):
        if ceil:
            count = -(-(length + low + high - width) // stride) + 1
            count -= (count - 1) * stride >= length + low
            high = max(high, (count - 1) * stride + width - length - low)
        pads.append((low, high))
    return tuple(pads)


def adaptive_avg_pool2d(x: Map, *, size: int) -> Outputs:
    """The mean over `size` x `size` bins; see `layers.AdaptiveAveragePool`."""
    return x.mean((-3, -2), keepdims=True) if size == 1 else layers.AdaptiveAveragePool(size)(x)


# ---- arithmetic: of two values, or of one with a parameter `other` or a number `value`


def _binary(function: Callable[[Array, Any], Array]) -> Callable[..., Array]:
    def operation(
        x: Values, y: Values | None = None, *, other: Values | None = None, value: Number = 0
    ) -> Values:
        number = np.asarray(value, x.dtype) if other is None else other
        return function(x, number if y is None else y)

    return operation


def _reduction(function: Callable[..., Array]) -> Callable[..., Array]:
    def operation(x: Values, *, axes: Sequence[int], keep: bool) -> Values:
        return function(x, axis=tuple(axes), keepdims=keep)

    return operation


def _norm(x, *, axis, keepdims):
    return jnp.sqrt(jnp.square(x).sum(axis, keepdims=keepdims))


def softmax(x: Values, *, axis: int) -> Values:
    """exp(x), divided by its sum along an axis."""
    return jax.nn.softmax(x, axis)


def power(x: Values, *, exponent: Number) -> Values:
    """x to a power that is a number."""
    return x ** (int(exponent) if exponent == int(exponent) else exponent)


# ---- activations


def clamp(x: Values, *, low: Number = -math.inf, high: Number = math.inf) -> Values:
    """min(max(x, low), high)."""
    return lax.clamp(np.asarray(low, x.dtype), x, np.asarray(high, x.dtype))


def relu6(x: Values) -> Values:
    """min(max(x, 0), 6)."""
    return clamp(x, low=0, high=6)


def leaky_relu(x: Values, *, slope: Number) -> Values:
    """x, or `slope` x below zero."""
    return jax.nn.relu(x) + slope * _below(x)


def prelu(x: Values, *, other: Values) -> Values:
    """`leaky_relu` with slopes that are parameters."""
    return jax.nn.relu(x) + other * _below(x)


def elu(x: Values, *, alpha: Number, scale: Number = 1, input_scale: Number = 1) -> Values:
    """scale x, or scale alpha (exp(input_scale x) - 1) below zero."""
    return scale * (jax.nn.relu(x) + alpha * jnp.expm1(input_scale * _below(x)))


def _below(x):
    """min(x, 0), whose derivative at zero is torch's, one."""
    return x - jax.nn.relu(x)


def hardsigmoid(x: Values) -> Values:
    """relu6(x + 3) / 6."""
    return relu6(x + 3) / 6


def hardswish(x: Values) -> Values:
    """x relu6(x + 3) / 6."""
    return x * hardsigmoid(x)


def silu(x: Values) -> Values:
    """x sigmoid(x)."""
    return x * lax.logistic(x)


def mish(x: Values) -> Values:
    """x tanh(log(1 + exp(x)))."""
    return x * jnp.tanh(jax.nn.softplus(x))


def gelu(x: Values, *, approximate: bool) -> Values:
    """x times the normal distribution's cumulative function, by erf or its tanh approximation."""
    return jax.nn.gelu(x, approximate=approximate)


# ---- shape


def pad(x: Map, *, padding: Sequence[Pair], value: Number) -> Outputs:
    """A constant around the map; `padding` is (low, high) of rows and of columns."""
    around = [(low, high, 0) for low, high in padding]
    config = [*[(0, 0, 0)] * (x.ndim - 3), *around, (0, 0, 0)]
    return lax.pad(x, np.asarray(value, x.dtype), config)


def concatenate(*parts: Values, axis: int) -> Values:
    """Values one after another along an axis."""
    return jnp.concatenate(parts, axis)


def slice_(x: Values, *, axis: int, start: int, stop: int | None, step: int) -> Values:
    """A part of an axis; to its end if `stop` is None."""
    return x[(..., slice(start, stop, step), *[slice(None)] * (-axis - 1))]


def transpose(x: Values, *, order: Sequence[int]) -> Values:
    """The last axes in another order, each counted from the last."""
    leading = x.ndim - len(order)
    return x.transpose(*range(leading), *(x.ndim + axis for axis in order))


def flatten(x: Values, *, start: int, stop: int) -> Values:
    """The axes from `start` to `stop`, itself included, as one."""
    first, last = x.ndim + start, x.ndim + stop
    return x.reshape(*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :])


def unflatten(x: Values, *, axis: int, sizes: Sequence[int]) -> Values:
    """An axis as several."""
    place = x.ndim + axis
    return x.reshape(*x.shape[:place], *sizes, *x.shape[place + 1 :])


def squeeze(x: Values, *, axes: Sequence[int]) -> Values:
    """Without axes of length one."""
    return jnp.squeeze(x, tuple(axes))


def upsample_nearest2d(x: Map, *, scales: Pair) -> Outputs:
    """Each pixel as a block of `scales` pixels."""
    return jnp.repeat(jnp.repeat(x, scales[0], -3), scales[1], -2)


def identity(x: Values) -> Values:
    """x: what dropout and stochastic depth are outside training."""
    return x


OPERATIONS: dict[str, Callable[..., Array]] = {
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "add": _binary(jnp.add),
    "amax": _reduction(jnp.max),
    "avg_pool2d": avg_pool2d,
    "batch_norm": batch_norm,
    "cat": concatenate,
    "clamp": clamp,
    "conv2d": conv2d,
    "div": _binary(jnp.divide),
    "dropout": identity,
    "elu": elu,
    "exp": jnp.exp,
    "flatten": flatten,
    "gelu": gelu,
    "group_norm": group_norm,
    "hardsigmoid": hardsigmoid,
    "hardswish": hardswish,
    "layer_norm": layer_norm,
    "leaky_relu": leaky_relu,
    "linear": linear,
    "max_pool2d": max_pool2d,
    "maximum": _binary(jnp.maximum),
    "mean": _reduction(jnp.mean),
    "minimum": _binary(jnp.minimum),
    "mish": mish,
    "mul": _binary(jnp.multiply),
    "neg": jnp.negative,
    "norm": _reduction(_norm),
    "pad": pad,
    "pow": power,
    "prelu": prelu,
    "relu": jax.nn.relu,
    "relu6": relu6,
    "rsqrt": lax.rsqrt,
    "sigmoid": lax.logistic,
    "silu": silu,
    "slice": slice_,
    "softmax": softmax,
    "softplus": jax.nn.softplus,
    "sqrt": jnp.sqrt,
    "squeeze": squeeze,
    "sub": _binary(jnp.subtract),
    "sum": _reduction(jnp.sum),
    "tanh": jnp.tanh,
    "transpose": transpose,
    "unflatten": unflatten,
    "upsample_nearest2d": upsample_nearest2d,
}
