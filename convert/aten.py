"""ATen operations, as torch.export gives them, as the operations of a graph: one function each.

torch's maps are `[n, c, h, w]` and ours `[h, w, c]`, so a value carries its *layout*: which of
torch's axes each of its own axes is, the batch's first. A permutation in torch only renames the
axes; they move where an operation needs them elsewhere, as a flattened map needs its channels
first.

A handler's arguments have torch's names, but for the first, which writes nodes down.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convert.operators import torch
from gcpatch.networks.graph import IMAGE

BATCH = 2  # images of the traced batch; with one, an operation across images would not show


@dataclass(frozen=True)
class Value:
    """What a node gives: its key, its shape in torch, and which of torch's axes each axis is."""

    node: Any
    shape: tuple[int, ...]
    layout: tuple[int, ...]

    def axis(self, torch_axis: int) -> int:
        """Our place of an axis of torch's, counted from the last."""
        return self.layout.index(torch_axis % len(self.shape)) - len(self.shape)


@dataclass(frozen=True)
class Constant:
    """A parameter by torch's name, or what is computed from parameters alone."""

    tensor: Any
    name: str | None


@dataclass
class Draft:
    """A node whose name is not known yet; its inputs are drafts or the image.

    Attributes:
        label: what it is called where no module is; the operation's name if None.
    """

    module: str
    call: str
    operation: str
    inputs: tuple[Any, ...]
    attributes: dict[str, Any]
    parameters: dict[str, tuple[Constant, str | None, np.ndarray]]
    layout: tuple[int, ...]
    shape: tuple[int, ...]
    label: str | None = None
    name: str = ""
    keys: dict[str, str] = field(default_factory=dict)


class Unsupported(Exception):  # noqa: N818  (what is unsupported, not an error of ours)
    """What of an operation is not supported."""


Handler = Callable[..., Any]
HANDLERS: dict[str, Handler] = {}


def _handles(*words: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(words, handler))
        return handler

    return register


class Writer:
    """Writes nodes down.

    Attributes:
        leaves: the names of the modules without modules in them.
        module, call: the module that is at work, and its call, should it have several.
        drafts: what was written.
    """

    def __init__(self, leaves: set[str]):
        self.leaves = leaves
        self.module = self.call = ""
        self.drafts: list[Draft] = []

    def emit(
        self,
        operation: str,
        *inputs: Value,
        shape: Sequence[int],
        layout: Sequence[int],
        parameters: Mapping[str, tuple[Constant, str | None, Any]] | None = None,
        **attributes: Any,
    ) -> Value:
        """Writes an operation down; a parameter is a constant, its key's word, and its value."""
        arrays = {
            role: (constant, word, _array(tensor))
            for role, (constant, word, tensor) in (parameters or {}).items()
        }
        draft = Draft(
            self.module,
            self.call,
            operation=operation,
            inputs=tuple(value.node for value in inputs),
            attributes=attributes,
            parameters=arrays,
            layout=tuple(layout),
            shape=tuple(shape),
        )
        self.drafts.append(draft)
        return Value(draft, draft.shape, draft.layout)

    def same(self, operation: str, value: Value, /, **attributes: Any) -> Value:
        """An operation that leaves shape and layout as they are."""
        return self.emit(operation, value, shape=value.shape, layout=value.layout, **attributes)

    def lay(self, value: Value, layout: Sequence[int]) -> Value:
        """A value with its axes in this order."""
        if value.layout == tuple(layout):
            return value
        rank = len(layout)
        order = [value.layout.index(axis) - rank for axis in layout[1:]]
        return self.emit("transpose", value, shape=value.shape, layout=layout, order=order)

    def channels_last(self, value: Value) -> Value:
        """A value `[n, c, ...]` with its channels as the last axis."""
        return self.lay(value, (0, *range(2, len(value.shape)), 1))


def _array(tensor: Any) -> np.ndarray:
    """A copy in float64 or float32, which JAX may keep."""
    tensor = tensor.cpu() if tensor.dtype == torch.float64 else tensor.cpu().float()
    return np.array(tensor.contiguous().numpy(), order="C")


def _pair(value: Any) -> list[int]:
    value = [value] if isinstance(value, int) else list(value)
    return value * 2 if len(value) == 1 else value


def _both(padding: Any) -> list[list[int]]:
    return [[pad, pad] for pad in _pair(padding)]


# ---- layers with weights


@_handles("conv2d")
def _conv2d(writer, input, weight, bias, stride, padding, dilation, groups):
    value, dilation, stride = writer.channels_last(input), _pair(dilation), _pair(stride)
    window, (rows, columns) = list(weight.tensor.shape[2:]), value.shape[2:]
    if padding == "same":
        spare = [(width - 1) * step for width, step in zip(window, dilation, strict=True)]
        pads = [[total // 2, total - total // 2] for total in spare]
    else:
        pads = _both(0 if padding == "valid" else padding)
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


@_handles("linear")
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


@_handles("_native_batch_norm_legit_no_training")
def _batch_norm(writer, input, weight, bias, running_mean, running_var, momentum, eps):
    value = writer.channels_last(input)
    mean, var = (
        (running_mean, "mean", running_mean.tensor),
        (running_var, "var", running_var.tensor),
    )
    parameters = {"mean": mean, "var": var, **_norm_parameters(weight, bias)}
    return [writer.same("batch_norm", value, parameters=parameters, epsilon=eps)]


@_handles("_native_batch_norm_legit", "instance_norm")
def _batch_statistics(writer, **_):
    raise Unsupported("it normalises by the statistics of the batch or image at hand")


@_handles("layer_norm")
def _layer_norm(writer, input, normalized_shape, weight, bias, eps, cudnn_enable):
    rank, count = len(input.shape), len(normalized_shape)
    ends = tuple(range(rank - count, rank))
    value = input
    if input.layout[-count:] != ends:
        value = writer.lay(input, (*(axis for axis in input.layout if axis not in ends), *ends))
    parameters = _norm_parameters(weight, bias)
    axes = list(range(-count, 0))
    return writer.same("layer_norm", value, parameters=parameters, epsilon=eps, axes=axes)


@_handles("group_norm")
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


@_handles("prelu")
def _prelu(writer, self, weight):
    value = writer.channels_last(self)
    return writer.same("prelu", value, parameters={"other": (weight, None, weight.tensor)})


# ---- pooling


def _pool(writer, input, kernel_size, stride, padding, ceil_mode, *, operation, fill, **attributes):
    value, size = writer.channels_last(input), _pair(kernel_size)
    strides, pads = _pair(stride or kernel_size), _both(padding)
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


@_handles("max_pool2d")
def _max_pool2d(writer, self, kernel_size, stride, padding, dilation, ceil_mode):
    if set(_pair(dilation)) != {1}:
        raise Unsupported("it has a dilation")
    how = {"operation": "max_pool2d", "fill": -math.inf}
    return _pool(writer, self, kernel_size, stride, padding, ceil_mode, **how)


@_handles("max_pool2d_with_indices")
def _max_pool2d_with_indices(writer, **arguments):
    return [_max_pool2d(writer, **arguments)]


@_handles("avg_pool2d")
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


@_handles("adaptive_avg_pool2d")
def _adaptive_avg_pool2d(writer, self, output_size):
    value, sizes = writer.channels_last(self), _pair(output_size)
    if len({*sizes}) > 1:
        raise Unsupported("its output is not square")
    shape = (*value.shape[:2], *sizes)
    return writer.emit(
        "adaptive_avg_pool2d", value, shape=shape, layout=(0, 2, 3, 1), size=sizes[0]
    )


@_handles("adaptive_max_pool2d")
def _adaptive_max_pool2d(writer, self, output_size):
    if _pair(output_size) != [1, 1]:
        raise Unsupported("only a global maximum can be")
    return [_reduce(writer, self, [2, 3], True, operation="amax")]


@_handles("upsample_nearest2d")
def _upsample_nearest2d(writer, input, output_size, scale_factors):
    value = writer.channels_last(input)
    sizes = output_size or [int(n * s) for n, s in zip(value.shape[2:], scale_factors, strict=True)]
    scales = [size // n for size, n in zip(sizes, value.shape[2:], strict=True)]
    if [n * s for n, s in zip(value.shape[2:], scales, strict=True)] != list(sizes):
        raise Unsupported("it does not enlarge by a whole number")
    shape = (*value.shape[:2], *sizes)
    return writer.emit("upsample_nearest2d", value, shape=shape, layout=(0, 2, 3, 1), scales=scales)


# ---- elementwise


def _elementwise(operation: str, **renamed: str) -> Handler:
    """An operation of one value; `renamed` are its settings, by our names."""

    def handler(writer, self, **arguments):
        return writer.same(
            operation, self, **{ours: arguments[word] for ours, word in renamed.items()}
        )

    return handler


HANDLERS |= {
    **{
        name: _elementwise(name)
        for name in (
            "exp", "hardsigmoid", "hardswish", "mish", "neg", "relu", "relu6", "rsqrt", "sigmoid",
            "silu", "sqrt", "tanh",
        )
    },
    "leaky_relu": _elementwise("leaky_relu", slope="negative_slope"),
    "elu": _elementwise("elu", alpha="alpha", scale="scale", input_scale="input_scale"),
}  # fmt: skip


@_handles("selu")
def _selu(writer, self):
    alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return writer.same("elu", self, alpha=alpha, scale=scale)


@_handles("celu")
def _celu(writer, self, alpha):
    return writer.same("elu", self, alpha=alpha, input_scale=1 / alpha)


@_handles("softplus")
def _softplus(writer, self, beta, threshold):
    if (beta, threshold) != (1, 20):
        raise Unsupported("only with beta 1 and threshold 20")
    return writer.same("softplus", self)


@_handles("gelu")
def _gelu(writer, self, approximate):
    return writer.same("gelu", self, approximate=approximate == "tanh")


@_handles("hardtanh")
def _hardtanh(writer, self, min_val, max_val):
    return _clamp(writer, self, min_val, max_val)


@_handles("clamp", "clamp_min", "clamp_max")
def _clamp(writer, self, min=None, max=None):
    limits = {"low": min, "high": max}
    if (min, max) == (0, 6):
        return writer.same("relu6", self)
    return writer.same("clamp", self, **{k: float(v) for k, v in limits.items() if v is not None})


@_handles("softmax", "_softmax")
def _softmax(writer, self, dim, **_):
    return writer.same("softmax", self, axis=self.axis(dim))


@_handles("dropout", "alpha_dropout", "feature_dropout", "clone", "contiguous", "detach", "alias")
def _identity(writer, self=None, input=None, **_):
    kept = self if input is None else input
    module = writer.module
    if module in writer.leaves and module:  # a dropout is a layer by torch's name
        return writer.same("dropout", kept)
    return kept


@_handles("_to_copy", "to")
def _to(writer, self, **_):
    return self


@_handles("pow")
def _pow(writer, self, exponent):
    if not isinstance(exponent, int | float):
        raise Unsupported("its exponent is no number")
    return writer.same("pow", self, exponent=float(exponent))


def _binary(operation: str) -> Handler:
    def handler(writer, self, other, alpha=1, rounding_mode=None):
        if alpha != 1 or rounding_mode is not None:
            raise Unsupported("it also scales or rounds")
        if isinstance(self, Value):
            return _apply(writer, operation, self, other)
        if operation == "sub":
            return _apply(writer, "add", writer.same("neg", other), self)
        if operation == "div":
            return _apply(writer, "mul", writer.same("pow", other, exponent=-1.0), self)
        return _apply(writer, operation, other, self)

    return handler


def _apply(writer, operation: str, first: Value, second: Any) -> Value:
    """An operation of a value with another, with a parameter or with a number."""
    if isinstance(second, int | float):
        return writer.same(operation, first, value=float(second))
    if isinstance(second, Constant):
        tensor = second.tensor
        if tensor.ndim == 0:
            return writer.same(operation, first, parameters={"other": (second, None, tensor)})
        rank = len(first.shape)
        if tensor.ndim > rank or (tensor.ndim == rank and tensor.shape[0] != 1):
            raise Unsupported("a parameter has more axes than the value")
        tensor = tensor.reshape(*[1] * (rank - tensor.ndim), *tensor.shape)
        shape = torch.broadcast_shapes(first.shape, tensor.shape)
        tensor = tensor.permute(first.layout)[0]
        return writer.emit(
            operation,
            first,
            shape=shape,
            layout=first.layout,
            parameters={"other": (second, None, tensor)},
        )
    if len(first.shape) != len(second.shape):
        raise Unsupported("its values have different numbers of axes")
    leading = first if math.prod(first.shape) >= math.prod(second.shape) else second
    shape = tuple(torch.broadcast_shapes(first.shape, second.shape))
    first, second = writer.lay(first, leading.layout), writer.lay(second, leading.layout)
    return writer.emit(operation, first, second, shape=shape, layout=leading.layout)


HANDLERS |= {name: _binary(name) for name in ("add", "div", "maximum", "minimum", "mul", "sub")}


@_handles("addcmul")
def _addcmul(writer, self, tensor1, tensor2, value=1):
    if value != 1:
        raise Unsupported("it also scales")
    return HANDLERS["add"](writer, self, HANDLERS["mul"](writer, tensor1, tensor2))


@_handles("rsub")
def _rsub(writer, self, other, alpha=1):
    return HANDLERS["sub"](writer, other, self, alpha)


@_handles("reciprocal")
def _reciprocal(writer, self):
    return writer.same("pow", self, exponent=-1.0)


@_handles("square")
def _square(writer, self):
    return writer.same("pow", self, exponent=2.0)


# ---- reductions


def _reduce(writer, value: Value, dims: Any, keep: bool, *, operation: str) -> Value:
    rank = len(value.shape)
    dims = [dims] if isinstance(dims, int) else list(dims or range(rank))
    dims = sorted(dim % rank for dim in dims)
    if 0 in dims:
        raise Unsupported("it goes over the images of a batch")
    axes = [value.axis(dim) for dim in dims]
    if keep:
        shape, layout = [1 if i in dims else n for i, n in enumerate(value.shape)], value.layout
    else:
        left = [dim for dim in range(rank) if dim not in dims]
        shape = [value.shape[dim] for dim in left]
        layout = tuple(left.index(axis) for axis in value.layout if axis in left)
    return writer.emit(operation, value, shape=shape, layout=layout, axes=axes, keep=keep)


def _reduction(operation: str) -> Handler:
    def handler(writer, self, dim=None, keepdim=False, dtype=None):
        return _reduce(writer, self, dim, keepdim, operation=operation)

    return handler


HANDLERS |= {name: _reduction(name) for name in ("mean", "sum", "amax")}


@_handles("linalg_vector_norm", "norm")
def _norm(writer, self, ord=2, p=2, dim=None, keepdim=False, dtype=None):
    if ord != 2 or p != 2:
        raise Unsupported("only the norm of order 2 can be")
    return _reduce(writer, self, dim, keepdim, operation="norm")


# ---- shape


@_handles("cat")
def _cat(writer, tensors, dim=0):
    if not all(isinstance(part, Value) for part in tensors):
        raise Unsupported("it appends a parameter")
    dim = dim % len(tensors[0].shape)
    if dim == 0:
        raise Unsupported("it appends images to a batch")
    layout = tensors[0].layout
    parts = [writer.lay(part, layout) for part in tensors]
    shape = list(parts[0].shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    return writer.emit("cat", *parts, shape=shape, layout=layout, axis=parts[0].axis(dim))


def _slice_of(writer, value: Value, dim: int, start: int, stop: int, step: int = 1) -> Value:
    length = value.shape[dim]
    if (start, stop, step) == (0, length, 1):
        return value
    if dim == 0:
        raise Unsupported("it goes over the images of a batch")
    shape = list(value.shape)
    shape[dim] = -(-(stop - start) // step)
    axis, end = value.axis(dim), None if stop == length else stop
    layout = value.layout
    return writer.emit(
        "slice", value, shape=shape, layout=layout, axis=axis, start=start, stop=end, step=step
    )


@_handles("slice")
def _slice(writer, self, dim=0, start=None, end=None, step=1):
    dim = dim % len(self.shape)
    start, stop, step = slice(start, end, step).indices(self.shape[dim])
    return _slice_of(writer, self, dim, start, max(start, stop), step)


@_handles("split", "split_with_sizes")
def _split(writer, self, split_size=None, split_sizes=None, dim=0):
    dim = dim % len(self.shape)
    size, length = split_size if split_sizes is None else split_sizes, self.shape[dim]
    sizes = (
        [min(size, length - i) for i in range(0, length, size)] if isinstance(size, int) else size
    )
    starts = np.cumsum([0, *sizes]).tolist()
    return [_slice_of(writer, self, dim, a, b) for a, b in itertools.pairwise(starts)]


@_handles("chunk")
def _chunk(writer, self, chunks, dim=0):
    return _split(writer, self, split_size=-(-self.shape[dim] // chunks), dim=dim)


@_handles("select")
def _select(writer, self, dim, index):
    dim = dim % len(self.shape)
    index = index % self.shape[dim]
    return _squeeze(writer, _slice_of(writer, self, dim, index, index + 1), dim)


@_handles("unbind")
def _unbind(writer, self, dim=0):
    return [_select(writer, self, dim, i) for i in range(self.shape[dim])]


@_handles("permute")
def _permute(writer, self, dims):
    rank = len(self.shape)
    dims = [dim % rank for dim in dims]
    if dims[0] != 0:
        raise Unsupported("it exchanges the images of a batch with another axis")
    layout = tuple(dims.index(axis) for axis in self.layout)
    return Value(self.node, tuple(self.shape[dim] for dim in dims), layout)


@_handles("transpose", "swapaxes")
def _transpose(writer, self, dim0=0, dim1=1, axis0=None, axis1=None):
    dims = list(range(len(self.shape)))
    a, b = (dim0, dim1) if axis0 is None else (axis0, axis1)
    dims[a], dims[b] = dims[b], dims[a]
    return _permute(writer, self, dims)


@_handles("squeeze")
def _squeeze(writer, self, dim=None):
    rank = len(self.shape)
    dims = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = sorted({dim % rank for dim in dims if self.shape[dim] == 1})
    if not gone:
        return self
    left = [dim for dim in range(rank) if dim not in gone]
    return writer.emit(
        "squeeze",
        self,
        shape=[self.shape[dim] for dim in left],
        layout=[left.index(axis) for axis in self.layout if axis in left],
        axes=[self.axis(dim) for dim in gone],
    )


@_handles("unsqueeze")
def _unsqueeze(writer, self, dim):
    rank = len(self.shape) + 1
    dim = dim % rank
    return _view(writer, self, [*self.shape[:dim], 1, *self.shape[dim:]])


@_handles("expand", "expand_as")
def _expand(writer, self, **_):
    return self  # the operation behind it expands its values by itself


@_handles("view", "reshape", "_unsafe_view", "flatten", "unflatten")
def _view(writer, self, size=None, shape=None, **_):
    """Axes of torch's that are merged are brought side by side; then those that are cut are cut."""
    size = list(size if shape is None else shape)
    if -1 in size:
        rest = math.prod(n for n in size if n != -1)
        size[size.index(-1)] = math.prod(self.shape) // rest
    groups = _groups(self.shape, size)
    if groups[0] != ([BATCH], [BATCH]):
        raise Unsupported("it mixes the images of a batch")
    value, place = self, 0
    for old, new in groups:
        if old != new:
            value = _cut(writer, _merge(writer, value, place, len(old)), place, new)
        place += len(new)
    return value


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Axes before and after, in the smallest groups that hold as many values."""
    groups: list[tuple[list[int], list[int]]] = []
    before, after = list(old), list(new)
    while before and after:
        group: tuple[list[int], list[int]] = ([before.pop(0)], [after.pop(0)])
        while math.prod(group[0]) != math.prod(group[1]):
            smaller = math.prod(group[0]) < math.prod(group[1])
            group[0 if smaller else 1].append((before if smaller else after).pop(0))
        groups.append(group)
    groups[-1][0].extend(before)
    groups[-1][1].extend(after)
    return groups


def _merge(writer, value: Value, place: int, count: int) -> Value:
    """Torch's axes from a place on as one; those of length one are dropped, which moves nothing."""
    ones = [i for i in range(place, place + count) if value.shape[i] == 1]
    ones = ones[1:] if len(ones) == count else ones
    value, count = _squeeze(writer, value, ones), count - len(ones)
    if ones:
        value.node.label = "flatten"
    if count == 1:
        return value
    rank, run = len(value.shape), tuple(range(place, place + count))
    at = [value.layout.index(axis) for axis in run]
    if at != list(range(at[0], at[0] + count)):
        others = [axis for axis in value.layout if axis not in run[1:]]
        at_first = others.index(place)
        value = writer.lay(value, (*others[:at_first], *run, *others[at_first + 1 :]))
        at = [value.layout.index(axis) for axis in run]
    shape = (
        *value.shape[:place],
        math.prod(value.shape[place : place + count]),
        *value.shape[place + count :],
    )
    layout = [
        axis if axis <= place else axis - count + 1 for axis in value.layout if axis not in run[1:]
    ]
    start, stop = at[0] - rank, at[-1] - rank
    return writer.emit("flatten", value, shape=shape, layout=layout, start=start, stop=stop)


def _cut(writer, value: Value, place: int, sizes: Sequence[int]) -> Value:
    """One of torch's axes as several."""
    if len(sizes) == 1:
        return value
    axis, extra = value.axis(place), len(sizes) - 1
    shape = (*value.shape[:place], *sizes, *value.shape[place + 1 :])
    layout: list[int] = []
    for old in value.layout:
        if old == place:
            layout += range(place, place + len(sizes))
        else:
            layout.append(old if old < place else old + extra)
    return writer.emit("unflatten", value, shape=shape, layout=layout, axis=axis, sizes=list(sizes))


@_handles("pad", "constant_pad_nd")
def _pad(writer, self, pad, mode="constant", value=None):
    value_ = writer.channels_last(self)
    pairs = [list(pad[i : i + 2]) for i in range(0, len(pad), 2)]  # of the last axis first
    if mode != "constant" or len(self.shape) != 4 or min(pad) < 0 or any(map(any, pairs[2:])):
        raise Unsupported("only a constant around a map can be")
    pads = [*reversed(pairs), [0, 0]][-3:][:2] if len(pairs) == 2 else [[0, 0], pairs[0]]
    shape = [*self.shape[:2], *(n + sum(p) for n, p in zip(self.shape[2:], pads, strict=True))]
    fill = float(value or 0)
    return writer.emit("pad", value_, shape=shape, layout=(0, 2, 3, 1), padding=pads, value=fill)
