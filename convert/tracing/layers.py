"""Layers with weights, and pooling."""

import math
from typing import Any

from convert.tracing.elementwise import reduce
from convert.tracing.writer import BATCH, Constant, Unsupported, Value, both, handles, pair
from gcpatch.networks.graph import IMAGE


@handles("conv2d")
def _conv2d(writer, input, weight, bias, stride, padding, dilation, groups):
    value, dilation, stride = writer.channels_last(input), pair(dilation), pair(stride)
    window, (rows, columns) = list(weight.tensor.shape[2:]), value.shape[2:]
    if padding == "same":
        spare = [(width - 1) * step for width, step in zip(window, dilation, strict=True)]
        pads = [[total // 2, total - total // 2] for total in spare]
    else:
        pads = both(0 if padding == "valid" else padding)
    value, pads = _without_pad(value, pads, 0)
    kernel = weight.tensor.permute(2, 3, 1, 0)
    rows, columns = (
        (length + sum(pad) - step * (width - 1) - 1) // jump + 1
        for length, pad, step, width, jump in zip(
            value.shape[2:], pads, dilation, window, stride, strict=True
        )
    )
    return writer.emit(
        "conv2d",
        value,
        shape=(BATCH, weight.tensor.shape[0], rows, columns),
        layout=(0, 2, 3, 1),
        parameters={"kernel": (weight, "kernel", kernel), **_optional(bias=bias)},
        strides=stride,
        padding=pads,
        dilation=dilation,
        groups=groups,
    )


def _without_pad(value: Value, pads: list[list[int]], fill: float) -> tuple[Value, Any]:
    """A window operation's input and padding, where the input is padded alike before it."""
    draft = value.node
    if draft is IMAGE or draft.operation != "pad" or draft.attributes["value"] != fill:
        return value, pads
    if any(map(any, pads)):
        return value, pads
    before = draft.inputs[0]
    pads = draft.attributes["padding"]
    sizes = [n - sum(pad) for n, pad in zip(value.shape[2:], pads, strict=True)]
    return Value(before, (*value.shape[:2], *sizes), value.layout), pads


def _optional(**constants: Constant | None) -> dict[str, Any]:
    return {role: (c, None, c.tensor) for role, c in constants.items() if c is not None}


def _norm_parameters(weight, bias) -> dict[str, Any]:
    scale = {} if weight is None else {"scale": (weight, "scale", weight.tensor)}
    return scale | _optional(bias=bias)


@handles("linear")
def _linear(writer, input, weight, bias):
    rank = len(input.shape)
    value = input
    if input.layout[-1] != rank - 1:
        value = writer.lay(input, (*(axis for axis in input.layout if axis != rank - 1), rank - 1))
    return writer.emit(
        "linear",
        value,
        shape=(*value.shape[:-1], weight.tensor.shape[0]),
        layout=value.layout,
        parameters={"kernel": (weight, "kernel", weight.tensor.T), **_optional(bias=bias)},
    )


@handles("_native_batch_norm_legit_no_training")
def _batch_norm(writer, input, weight, bias, running_mean, running_var, momentum, eps):
    value = writer.channels_last(input)
    mean, var = (
        (running_mean, "mean", running_mean.tensor),
        (running_var, "var", running_var.tensor),
    )
    parameters = {"mean": mean, "var": var, **_norm_parameters(weight, bias)}
    return [writer.same("batch_norm", value, parameters=parameters, epsilon=eps)]


@handles("_native_batch_norm_legit", "instance_norm")
def _batch_statistics(writer, **_):
    raise Unsupported("it normalises by the statistics of the batch or image at hand")


@handles("layer_norm")
def _layer_norm(writer, input, normalized_shape, weight, bias, eps, cudnn_enable):
    rank, count = len(input.shape), len(normalized_shape)
    ends = tuple(range(rank - count, rank))
    value = input
    if input.layout[-count:] != ends:
        value = writer.lay(input, (*(axis for axis in input.layout if axis not in ends), *ends))
    parameters = _norm_parameters(weight, bias)
    axes = list(range(-count, 0))
    return writer.same("layer_norm", value, parameters=parameters, epsilon=eps, axes=axes)


@handles("group_norm")
def _group_norm(writer, input, num_groups, weight, bias, eps, cudnn_enabled):
    value = writer.channels_last(input)
    return writer.same(
        "group_norm",
        value,
        parameters=_norm_parameters(weight, bias),
        epsilon=eps,
        groups=num_groups,
        rank=len(value.shape) - 1,
    )


@handles("prelu")
def _prelu(writer, self, weight):
    value = writer.channels_last(self)
    return writer.same("prelu", value, parameters={"other": (weight, None, weight.tensor)})


# ---- pooling


def _pool(writer, input, kernel_size, stride, padding, ceil_mode, *, operation, fill, **attributes):
    value, size = writer.channels_last(input), pair(kernel_size)
    strides, pads = pair(stride or kernel_size), both(padding)
    if fill is not None:
        value, pads = _without_pad(value, pads, fill)
    lengths = []
    for length, width, step, (low, high) in zip(value.shape[2:], size, strides, pads, strict=True):
        spare = length + low + high - width
        count = (-(-spare // step) if ceil_mode else spare // step) + 1
        lengths.append(count - (ceil_mode and (count - 1) * step >= length + low))
    return writer.emit(
        operation,
        value,
        shape=(*value.shape[:2], *lengths),
        layout=(0, 2, 3, 1),
        size=size,
        strides=strides,
        padding=pads,
        ceil=ceil_mode,
        **attributes,
    )


@handles("max_pool2d")
def _max_pool2d(writer, self, kernel_size, stride, padding, dilation, ceil_mode):
    if set(pair(dilation)) != {1}:
        raise Unsupported("it has a dilation")
    how = {"operation": "max_pool2d", "fill": -math.inf}
    return _pool(writer, self, kernel_size, stride, padding, ceil_mode, **how)


@handles("max_pool2d_with_indices")
def _max_pool2d_with_indices(writer, **arguments):
    return [_max_pool2d(writer, **arguments)]


@handles("avg_pool2d")
def _avg_pool2d(
    writer, self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
):
    how = {"count_padding": count_include_pad, "divisor": divisor_override}
    return _pool(
        writer,
        self,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        operation="avg_pool2d",
        fill=None,
        **how,
    )


@handles("adaptive_avg_pool2d")
def _adaptive_avg_pool2d(writer, self, output_size):
    value, sizes = writer.channels_last(self), pair(output_size)
    if len({*sizes}) > 1:
        raise Unsupported("its output is not square")
    shape = (*value.shape[:2], *sizes)
    return writer.emit(
        "adaptive_avg_pool2d", value, shape=shape, layout=(0, 2, 3, 1), size=sizes[0]
    )


@handles("adaptive_max_pool2d")
def _adaptive_max_pool2d(writer, self, output_size):
    if pair(output_size) != [1, 1]:
        raise Unsupported("only a global maximum can be")
    return [reduce(writer, self, [2, 3], True, operation="amax")]


@handles("upsample_nearest2d")
def _upsample_nearest2d(writer, input, output_size, scale_factors):
    value = writer.channels_last(input)
    sizes = output_size or [int(n * s) for n, s in zip(value.shape[2:], scale_factors, strict=True)]
    scales = [size // n for size, n in zip(sizes, value.shape[2:], strict=True)]
    if [n * s for n, s in zip(value.shape[2:], scales, strict=True)] != list(sizes):
        raise Unsupported("it does not enlarge by a whole number")
    shape = (*value.shape[:2], *sizes)
    return writer.emit("upsample_nearest2d", value, shape=shape, layout=(0, 2, 3, 1), scales=scales)
