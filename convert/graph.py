"""Any PyTorch CNN as a graph of operations, traced once by torch.export.

torch.export writes down what an evaluated module computes as a list of ATen operations, each with
the name of the module that called it. Here each becomes a node of a `gcpatch.networks.graph`.

torch's maps are `[n, c, h, w]` and ours `[h, w, c]`, so a value carries its *layout*: which of
torch's axes each of its own axes is, the batch's first. A permutation in torch only renames the
axes; they move where an operation needs them elsewhere, as a flattened map needs its channels
first. What is computed from parameters alone is a parameter.
"""

import importlib
import math
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from convert import ConvertError
from convert.operators import torch, torchvision
from convert.weights import first_line
from gcpatch.networks import Preprocessing, fill
from gcpatch.networks.graph import IMAGE, Graph, create

BATCH = 2  # images of the traced batch; with one, an operation across images would not show
ATTENTION = ("scaled_dot_product_attention", "matmul", "bmm", "einsum", "baddbmm")
POOLS = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "dropout", "pad", "transpose", "slice")
WORDS = {"weight": "scale", "running_mean": "mean", "running_var": "var"}  # of a normalisation


class Traced(NamedTuple):
    """A graph as JSON, its parameters by key, and the number of classes."""

    graph: dict[str, Any]
    tensors: dict[str, np.ndarray]
    classes: int


def build(spec: str) -> Any:
    """The evaluated PyTorch module of `torchvision:NAME`, `timm:NAME` or `module:factory`.

    Raises:
        ConvertError: there is none of this name, or the factory raises or gives something else.
    """
    source, _, name = spec.partition(":")
    try:
        if source == "torchvision":
            auxiliary = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
            module = torchvision.models.get_model(name, weights=None, **auxiliary)
        elif source == "timm":
            module = importlib.import_module("timm").create_model(name)
        else:
            module = getattr(importlib.import_module(source), name)()
    except ModuleNotFoundError as error:
        if error.name == "timm":
            raise ConvertError("timm is not installed: pip install timm") from error
        raise ConvertError(f"{spec} cannot be imported ({error})") from error
    except Exception as error:  # of code that is not ours
        raise ConvertError(f"{spec} gives no module ({_said(error)})") from error
    if not isinstance(module, torch.nn.Module):
        raise ConvertError(f"{spec} gives a {type(module).__name__} instead of a torch.nn.Module")
    return module.eval()


def from_module(
    module: Any,
    name: str,
    categories: tuple[str, ...] | None = None,
    preprocessing: Preprocessing = Preprocessing(),  # noqa: B008  (frozen)
    target_layer: str | None = None,
) -> Graph:
    """A network that computes what a PyTorch module does, with copies of its weights.

    float64 stays where jax_enable_x64 is set, all else becomes float32.

    Args:
        module: takes normalised images `[n, 3, size, size]` and gives logits `[n, classes]`.
        name: the network's.
        categories: the classes' names; numbered if None.
        preprocessing: what the module takes images as.
        target_layer: what Grad-CAM explains; the last map before the global pooling if None.

    Raises:
        ConvertError: the module cannot be traced, has an operation that is not known, or gives
            something else than a logit for each of the categories.
        UserError: there is no such layer, or the network cannot be cut there.
    """
    traced = trace(module, preprocessing.size)
    graph = traced.graph | ({"target_layer": target_layer} if target_layer else {})
    categories = categories or tuple(f"class {i}" for i in range(traced.classes))
    return fill(create(graph, name, categories, preprocessing), traced.tensors)


def trace(module: Any, size: int = 224) -> Traced:
    """An evaluated module's graph, parameters and classes; for errors see `from_module`."""
    program = _export(module.eval(), size)
    constants = {**dict(program.named_parameters()), **dict(program.named_buffers())}
    constants |= program.constants
    signature = program.graph_signature
    owned = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    nodes = list(program.graph.nodes)
    _refuse_attention(module, nodes)
    tracer = _Tracer(module)
    outputs: list[Any] = []
    for node in nodes:
        if node.op == "placeholder":
            if node.name in owned:
                key = owned[node.name]
                tracer.values[node] = Constant(constants[key].detach(), key)
            else:
                shape = tuple(node.meta["val"].shape)
                tracer.values[node] = Value(IMAGE, shape, (0, 2, 3, 1))
        elif node.op == "call_function":
            tracer.values[node] = tracer.call(node)
        elif node.op == "output":
            outputs = [tracer.values[found] for found in node.args[0] if found is not None]
    return tracer.finish(outputs)


def _export(module: Any, size: int) -> Any:
    """torch.export's program of a module, without operations in place."""
    kinds = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()}
    dtype = next(iter(kinds), torch.float32)
    image = torch.zeros(BATCH, 3, size, size, dtype=dtype)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(module, (image,), strict=False).run_decompositions({})
    except Exception as error:  # torch.export runs the module's own code
        if "data-dependent" in str(error).lower() or "DataDependent" in type(error).__name__:
            raise ConvertError(
                "this module decides by its input's values what it computes, which a graph "
                f"cannot hold ({_said(error)})"
            ) from error
        raise ConvertError(
            f"torch.export cannot trace this module with images of {size} pixels ({_said(error)})"
        ) from error


def _refuse_attention(module: Any, nodes: Sequence[Any]) -> None:
    kinds = [type(part).__name__ for part in module.modules()]
    found = [kind for kind in kinds if kind == "MultiheadAttention"]
    found += [_word(node) for node in nodes if node.op == "call_function"]
    if names := [name for name in found if name in (*ATTENTION, "MultiheadAttention")]:
        raise ConvertError(
            "networks with attention, such as vision transformers, cannot be converted: they have "
            f"no map of convolution for Grad-CAM to explain (found {names[0]})"
        )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


# ---- values, and the nodes that are written down


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
    """A node whose name is not known yet; its inputs are drafts or the image."""

    module: str
    call: str
    operation: str
    inputs: tuple[Any, ...]
    attributes: dict[str, Any]
    parameters: dict[str, tuple[Constant, str | None, np.ndarray]]
    layout: tuple[int, ...]
    shape: tuple[int, ...]
    name: str = ""
    keys: dict[str, str] = field(default_factory=dict)


class _Unsupported(Exception):
    """What of an operation is not supported."""


Handler = Callable[..., Any]
HANDLERS: dict[str, Handler] = {}


def _handles(*words: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(words, handler))
        return handler

    return register


class _Tracer:
    """Translates ATen operations one by one into drafts."""

    def __init__(self, module: Any):
        self.leaves = {name for name, part in module.named_modules() if not [*part.children()]}
        self.values: dict[Any, Any] = {}
        self.drafts: list[Draft] = []
        self.where = ("", "")

    def call(self, node: Any) -> Any:
        """The value of an ATen operation."""
        stack = list((node.meta.get("nn_module_stack") or {"": ("", None)}).items())
        call = stack[-1][1][0]
        self.where = (call.partition("@")[0], stack[-1][0])
        if node.target is operator.getitem:
            return self.values[node.args[0]][node.args[1]]
        arguments = self._arguments(node)
        tensors = [x for x in _flat(arguments.values()) if isinstance(x, Value | Constant)]
        if not any(isinstance(x, Value) for x in tensors):
            return self._fold(node)
        word = _word(node)
        try:
            if word not in HANDLERS:
                raise _Unsupported(f"known are {', '.join(sorted(HANDLERS))}")
            value = HANDLERS[word](self, **arguments)
        except _Unsupported as error:
            place = self.where[0] or "the network itself"
            raise ConvertError(
                f"the operation {word} in {place} cannot be converted: {error}"
            ) from None
        return value

    def _arguments(self, node: Any) -> dict[str, Any]:
        """An operation's arguments by torch's names for them, defaults included."""
        given = torch.fx.node.map_arg((node.args, dict(node.kwargs)), lambda x: self.values[x])
        args, kwargs = given
        schema = node.target._schema.arguments
        defaults = {x.name: x.default_value for x in schema if x.has_default_value()}
        named = {x.name: value for x, value in zip(schema, args, strict=False)}
        return defaults | named | kwargs

    def _fold(self, node: Any) -> Any:
        """The value of an operation on parameters alone."""

        def take(x: Any) -> Any:
            return self.values[x].tensor

        args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), take)
        with torch.no_grad():
            result = node.target(*args, **kwargs)
        if isinstance(result, torch.Tensor):
            return Constant(result, None)
        return [Constant(part, None) for part in result]

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
            role: (constant, word, np.array(tensor.contiguous().numpy(), order="C"))
            for role, (constant, word, tensor) in (parameters or {}).items()
        }
        draft = Draft(
            *self.where,
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
        if layout[0] != 0 or value.layout[0] != 0:
            raise _Unsupported("it exchanges the images of a batch with another axis")
        rank = len(layout)
        order = [value.layout.index(axis) - rank for axis in layout[1:]]
        return self.emit("transpose", value, shape=value.shape, layout=layout, order=order)

    def channels_last(self, value: Value) -> Value:
        """A value `[n, c, ...]` with its channels as the last axis."""
        return self.lay(value, (0, *range(2, len(value.shape)), 1))

    # ---- the graph

    def finish(self, outputs: Sequence[Any]) -> Traced:
        """The graph of everything that the one output depends on."""
        shapes = [list(getattr(value, "shape", ())) for value in outputs]
        if len(outputs) != 1 or not isinstance(outputs[0], Value):
            raise ConvertError(
                f"this module gives {len(outputs)} outputs instead of one tensor of logits "
                "[images, classes]"
            )
        if len(shapes[0]) != 2 or shapes[0][0] != BATCH:
            sizes = ["images", *shapes[0][1:]]
            raise ConvertError(
                f"this module gives [{', '.join(map(str, sizes))}] instead of logits "
                "[images, classes]"
            )
        if shapes[0][1] < 2:
            raise ConvertError("this module gives one logit; a classifier has two classes or more")
        last = outputs[0].node
        if last is IMAGE:
            raise ConvertError("this module gives its input back")
        wanted, stack = {id(last)}, [last]
        while stack:
            for draft in stack.pop().inputs:
                if draft is not IMAGE and id(draft) not in wanted:
                    wanted.add(id(draft))
                    stack.append(draft)
        drafts = [draft for draft in self.drafts if id(draft) in wanted]
        self._name(drafts)
        tensors: dict[str, np.ndarray] = {}
        for draft in drafts:
            for role, (constant, word, array) in draft.parameters.items():
                key = _key(constant, word, role, draft.name)
                while key in tensors and not np.array_equal(tensors[key], array):
                    key += "_"  # one tensor of torch's in two forms
                tensors[key], draft.keys[role] = array, key
        for key, array in tensors.items():
            if not (np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all()):
                raise ConvertError(f"the parameter {key} holds other values than finite numbers")
        kept = np.float64 if jax.config.jax_enable_x64 else np.float32
        tensors = {
            key: array.astype(kept if array.dtype == np.float64 else np.float32)
            for key, array in tensors.items()
        }
        graph = {
            "target_layer": _target(drafts),
            "parameters": {key: list(array.shape) for key, array in tensors.items()},
            "nodes": [_written(draft) for draft in drafts],
        }
        return Traced(graph, tensors, shapes[0][1])

    def _name(self, drafts: Sequence[Draft]) -> None:
        """torch's name of the module where it is all of a module's call, else with the operation's.

        The second of a name has `_1` behind it, as in torchvision's feature extraction.
        """
        calls, used = Counter((draft.module, draft.call) for draft in drafts), Counter[str]()
        for draft in drafts:
            alone = draft.module in self.leaves and calls[draft.module, draft.call] == 1
            parts = [draft.module] if alone else [draft.module, draft.operation]
            name = ".".join(part for part in parts if part)
            used[name] += 1
            draft.name = name if used[name] == 1 else f"{name}_{used[name] - 1}"


def _key(constant: Constant, word: str | None, role: str, node: str) -> str:
    """A parameter's key: torch's name, its last word exchanged where ours is another."""
    if constant.name is None:
        return f"{node}.{word or role}"
    owner, _, last = constant.name.rpartition(".")
    return ".".join(part for part in (owner, word or last) if part)


def _written(draft: Draft) -> dict[str, Any]:
    return {
        "name": draft.name,
        "operation": draft.operation,
        "inputs": [x if x is IMAGE else x.name for x in draft.inputs],
        "attributes": draft.attributes,
        "parameters": draft.keys,
        "layout": list(draft.layout),
    }


def _target(drafts: Sequence[Draft]) -> str:
    """The last map before the global pooling, where the network can be cut."""
    last = {x.name: i for i, draft in enumerate(drafts) for x in draft.inputs if x is not IMAGE}
    reach, found = 0, None
    for i, draft in enumerate(drafts):
        alone = reach <= i
        reach = max(reach, last.get(draft.name, i))
        is_map = draft.layout == (0, 2, 3, 1) and math.prod(draft.shape[2:]) > 1
        if alone and is_map and draft.operation not in POOLS:
            found = draft.name
    if found is None:
        raise ConvertError("this module has no map of more than one cell for Grad-CAM to explain")
    return found


def _word(node: Any) -> str:
    """An ATen operation's name without its overload."""
    schema = getattr(node.target, "_schema", None)
    return schema.name.partition("::")[2] if schema else str(node.target)


def _flat(values: Any) -> list[Any]:
    return [
        x
        for value in values
        for x in (_flat(value) if isinstance(value, list | tuple) else [value])
    ]


def _pair(value: Any) -> list[int]:
    value = [value] if isinstance(value, int) else list(value)
    return value * 2 if len(value) == 1 else value


def _both(padding: Any) -> list[list[int]]:
    return [[pad, pad] for pad in _pair(padding)]


# ---- layers with weights


@_handles("conv2d")
def _conv2d(t, input, weight, bias, stride, padding, dilation, groups):
    value, dilation, stride = t.channels_last(input), _pair(dilation), _pair(stride)
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
    return t.emit(
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
def _linear(t, input, weight, bias):
    rank = len(input.shape)
    value = input
    if input.layout[-1] != rank - 1:
        value = t.lay(input, (*(axis for axis in input.layout if axis != rank - 1), rank - 1))
    return t.emit(
        "linear",
        value,
        shape=(*value.shape[:-1], weight.tensor.shape[0]),
        layout=value.layout,
        parameters={"kernel": (weight, "kernel", weight.tensor.T), **_optional(bias=bias)},
    )


@_handles("_native_batch_norm_legit_no_training")
def _batch_norm(t, input, weight, bias, running_mean, running_var, momentum, eps):
    value = t.channels_last(input)
    mean, var = (
        (running_mean, "mean", running_mean.tensor),
        (running_var, "var", running_var.tensor),
    )
    parameters = {"mean": mean, "var": var, **_norm_parameters(weight, bias)}
    return [t.same("batch_norm", value, parameters=parameters, epsilon=eps)]


@_handles("_native_batch_norm_legit", "instance_norm")
def _batch_statistics(t, **_):
    raise _Unsupported("it normalises by the statistics of the batch or image at hand")


@_handles("layer_norm")
def _layer_norm(t, input, normalized_shape, weight, bias, eps, cudnn_enable):
    rank, count = len(input.shape), len(normalized_shape)
    ends = tuple(range(rank - count, rank))
    value = input
    if input.layout[-count:] != ends:
        value = t.lay(input, (*(axis for axis in input.layout if axis not in ends), *ends))
    parameters = _norm_parameters(weight, bias)
    axes = list(range(-count, 0))
    return t.same("layer_norm", value, parameters=parameters, epsilon=eps, axes=axes)


@_handles("group_norm")
def _group_norm(t, input, num_groups, weight, bias, eps, cudnn_enabled):
    value = t.channels_last(input)
    return t.same(
        "group_norm",
        value,
        parameters=_norm_parameters(weight, bias),
        epsilon=eps,
        groups=num_groups,
        rank=len(value.shape) - 1,
    )


@_handles("prelu")
def _prelu(t, self, weight):
    value = t.channels_last(self)
    return t.same("prelu", value, parameters={"other": (weight, None, weight.tensor)})


# ---- pooling


def _pool(t, input, kernel_size, stride, padding, ceil_mode, *, operation, fill, **attributes):
    value, size = t.channels_last(input), _pair(kernel_size)
    strides, pads = _pair(stride or kernel_size), _both(padding)
    if fill is not None:
        value, pads = _without_pad(value, pads, fill)
    lengths = []
    for length, width, step, (low, high) in zip(value.shape[2:], size, strides, pads, strict=True):
        spare = length + low + high - width
        count = (-(-spare // step) if ceil_mode else spare // step) + 1
        lengths.append(count - (ceil_mode and (count - 1) * step >= length + low))
    return t.emit(
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
def _max_pool2d(t, self, kernel_size, stride, padding, dilation, ceil_mode):
    if set(_pair(dilation)) != {1}:
        raise _Unsupported("it has a dilation")
    how = {"operation": "max_pool2d", "fill": -math.inf}
    return _pool(t, self, kernel_size, stride, padding, ceil_mode, **how)


@_handles("max_pool2d_with_indices")
def _max_pool2d_with_indices(t, **arguments):
    return [_max_pool2d(t, **arguments)]


@_handles("avg_pool2d")
def _avg_pool2d(
    t, self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
):
    how = {"count_padding": count_include_pad, "divisor": divisor_override}
    return _pool(
        t, self, kernel_size, stride, padding, ceil_mode, operation="avg_pool2d", fill=None, **how
    )


@_handles("adaptive_avg_pool2d")
def _adaptive_avg_pool2d(t, self, output_size):
    value, sizes = t.channels_last(self), _pair(output_size)
    if len({*sizes}) > 1:
        raise _Unsupported("its output is not square")
    shape = (*value.shape[:2], *sizes)
    return t.emit("adaptive_avg_pool2d", value, shape=shape, layout=(0, 2, 3, 1), size=sizes[0])


@_handles("adaptive_max_pool2d")
def _adaptive_max_pool2d(t, self, output_size):
    if _pair(output_size) != [1, 1]:
        raise _Unsupported("only a global maximum can be")
    return [_reduce(t, self, [2, 3], True, operation="amax")]


@_handles("upsample_nearest2d")
def _upsample_nearest2d(t, input, output_size, scale_factors):
    value = t.channels_last(input)
    sizes = output_size or [int(n * s) for n, s in zip(value.shape[2:], scale_factors, strict=True)]
    scales = [size // n for size, n in zip(sizes, value.shape[2:], strict=True)]
    if [n * s for n, s in zip(value.shape[2:], scales, strict=True)] != list(sizes):
        raise _Unsupported("it does not enlarge by a whole number")
    shape = (*value.shape[:2], *sizes)
    return t.emit("upsample_nearest2d", value, shape=shape, layout=(0, 2, 3, 1), scales=scales)


# ---- elementwise


def _elementwise(operation: str, **renamed: str) -> Handler:
    """An operation of one value; `renamed` are its settings, by our names."""

    def handler(t, self, **arguments):
        return t.same(operation, self, **{ours: arguments[word] for ours, word in renamed.items()})

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
def _selu(t, self):
    alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return t.same("elu", self, alpha=alpha, scale=scale)


@_handles("celu")
def _celu(t, self, alpha):
    return t.same("elu", self, alpha=alpha, input_scale=1 / alpha)


@_handles("softplus")
def _softplus(t, self, beta, threshold):
    if (beta, threshold) != (1, 20):
        raise _Unsupported("only with beta 1 and threshold 20")
    return t.same("softplus", self)


@_handles("gelu")
def _gelu(t, self, approximate):
    return t.same("gelu", self, approximate=approximate == "tanh")


@_handles("hardtanh")
def _hardtanh(t, self, min_val, max_val):
    return _clamp(t, self, min_val, max_val)


@_handles("clamp", "clamp_min", "clamp_max")
def _clamp(t, self, min=None, max=None):
    limits = {"low": min, "high": max}
    if (min, max) == (0, 6):
        return t.same("relu6", self)
    return t.same("clamp", self, **{k: float(v) for k, v in limits.items() if v is not None})


@_handles("softmax", "_softmax")
def _softmax(t, self, dim, **_):
    return t.same("softmax", self, axis=self.axis(dim))


@_handles("dropout", "alpha_dropout", "feature_dropout", "clone", "contiguous", "detach", "alias")
def _identity(t, self=None, input=None, **_):
    kept = self if input is None else input
    module = t.where[0]
    if module in t.leaves and module:  # a dropout is a layer by torch's name
        return t.same("dropout", kept)
    return kept


@_handles("_to_copy", "to")
def _to(t, self, **_):
    return self


@_handles("pow")
def _pow(t, self, exponent):
    if not isinstance(exponent, int | float):
        raise _Unsupported("its exponent is no number")
    return t.same("pow", self, exponent=float(exponent))


def _binary(operation: str) -> Handler:
    def handler(t, self, other, alpha=1, rounding_mode=None):
        if alpha != 1 or rounding_mode is not None:
            raise _Unsupported("it also scales or rounds")
        if isinstance(self, Value):
            return _apply(t, operation, self, other)
        if operation == "sub":
            return _apply(t, "add", t.same("neg", other), self)
        if operation == "div":
            return _apply(t, "mul", t.same("pow", other, exponent=-1.0), self)
        return _apply(t, operation, other, self)

    return handler


def _apply(t, operation: str, first: Value, second: Any) -> Value:
    """An operation of a value with another, with a parameter or with a number."""
    if isinstance(second, int | float):
        return t.same(operation, first, value=float(second))
    if isinstance(second, Constant):
        tensor = second.tensor
        if tensor.ndim == 0:
            return t.same(operation, first, parameters={"other": (second, None, tensor)})
        rank = len(first.shape)
        if tensor.ndim > rank or (tensor.ndim == rank and tensor.shape[0] != 1):
            raise _Unsupported("a parameter has more axes than the value")
        tensor = tensor.reshape(*[1] * (rank - tensor.ndim), *tensor.shape)
        shape = torch.broadcast_shapes(first.shape, tensor.shape)
        tensor = tensor.permute(first.layout)[0]
        return t.emit(
            operation,
            first,
            shape=shape,
            layout=first.layout,
            parameters={"other": (second, None, tensor)},
        )
    if len(first.shape) != len(second.shape):
        raise _Unsupported("its values have different numbers of axes")
    leading = first if math.prod(first.shape) >= math.prod(second.shape) else second
    shape = tuple(torch.broadcast_shapes(first.shape, second.shape))
    first, second = t.lay(first, leading.layout), t.lay(second, leading.layout)
    return t.emit(operation, first, second, shape=shape, layout=leading.layout)


HANDLERS |= {name: _binary(name) for name in ("add", "div", "maximum", "minimum", "mul", "sub")}


@_handles("addcmul")
def _addcmul(t, self, tensor1, tensor2, value=1):
    if value != 1:
        raise _Unsupported("it also scales")
    return HANDLERS["add"](t, self, HANDLERS["mul"](t, tensor1, tensor2))


@_handles("rsub")
def _rsub(t, self, other, alpha=1):
    return HANDLERS["sub"](t, other, self, alpha)


@_handles("reciprocal")
def _reciprocal(t, self):
    return t.same("pow", self, exponent=-1.0)


@_handles("square")
def _square(t, self):
    return t.same("pow", self, exponent=2.0)


# ---- reductions


def _reduce(t, value: Value, dims: Any, keep: bool, *, operation: str) -> Value:
    rank = len(value.shape)
    dims = [dims] if isinstance(dims, int) else list(dims or range(rank))
    dims = sorted(dim % rank for dim in dims)
    if 0 in dims:
        raise _Unsupported("it goes over the images of a batch")
    axes = [value.axis(dim) for dim in dims]
    if keep:
        shape, layout = [1 if i in dims else n for i, n in enumerate(value.shape)], value.layout
    else:
        left = [dim for dim in range(rank) if dim not in dims]
        shape = [value.shape[dim] for dim in left]
        layout = tuple(left.index(axis) for axis in value.layout if axis in left)
    return t.emit(operation, value, shape=shape, layout=layout, axes=axes, keep=keep)


def _reduction(operation: str) -> Handler:
    def handler(t, self, dim=None, keepdim=False, dtype=None):
        return _reduce(t, self, dim, keepdim, operation=operation)

    return handler


HANDLERS |= {name: _reduction(name) for name in ("mean", "sum", "amax")}


@_handles("linalg_vector_norm", "norm")
def _norm(t, self, ord=2, p=2, dim=None, keepdim=False, dtype=None):
    if ord != 2 or p != 2:
        raise _Unsupported("only the norm of order 2 can be")
    return _reduce(t, self, dim, keepdim, operation="norm")


# ---- shape


@_handles("cat")
def _cat(t, tensors, dim=0):
    if not all(isinstance(part, Value) for part in tensors):
        raise _Unsupported("it appends a parameter")
    dim = dim % len(tensors[0].shape)
    if dim == 0:
        raise _Unsupported("it appends images to a batch")
    layout = tensors[0].layout
    parts = [t.lay(part, layout) for part in tensors]
    shape = list(parts[0].shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    return t.emit("cat", *parts, shape=shape, layout=layout, axis=parts[0].axis(dim))


def _slice_of(t, value: Value, dim: int, start: int, stop: int, step: int = 1) -> Value:
    length = value.shape[dim]
    if (start, stop, step) == (0, length, 1):
        return value
    if dim == 0:
        raise _Unsupported("it goes over the images of a batch")
    shape = list(value.shape)
    shape[dim] = -(-(stop - start) // step)
    axis, end = value.axis(dim), None if stop == length else stop
    layout = value.layout
    return t.emit(
        "slice", value, shape=shape, layout=layout, axis=axis, start=start, stop=end, step=step
    )


@_handles("slice")
def _slice(t, self, dim=0, start=None, end=None, step=1):
    dim = dim % len(self.shape)
    start, stop, step = slice(start, end, step).indices(self.shape[dim])
    return _slice_of(t, self, dim, start, max(start, stop), step)


@_handles("split", "split_with_sizes")
def _split(t, self, split_size=None, split_sizes=None, dim=0):
    dim = dim % len(self.shape)
    size, length = split_size if split_sizes is None else split_sizes, self.shape[dim]
    sizes = (
        [min(size, length - i) for i in range(0, length, size)] if isinstance(size, int) else size
    )
    starts = np.cumsum([0, *sizes]).tolist()
    return [_slice_of(t, self, dim, a, b) for a, b in zip(starts, starts[1:], strict=False)]


@_handles("chunk")
def _chunk(t, self, chunks, dim=0):
    return _split(t, self, split_size=-(-self.shape[dim] // chunks), dim=dim)


@_handles("select")
def _select(t, self, dim, index):
    dim = dim % len(self.shape)
    index = index % self.shape[dim]
    return _squeeze(t, _slice_of(t, self, dim, index, index + 1), dim)


@_handles("unbind")
def _unbind(t, self, dim=0):
    return [_select(t, self, dim, i) for i in range(self.shape[dim])]


@_handles("permute")
def _permute(t, self, dims):
    rank = len(self.shape)
    dims = [dim % rank for dim in dims]
    layout = tuple(dims.index(axis) for axis in self.layout)
    return Value(self.node, tuple(self.shape[dim] for dim in dims), layout)


@_handles("transpose", "swapaxes")
def _transpose(t, self, dim0=0, dim1=1, axis0=None, axis1=None):
    dims = list(range(len(self.shape)))
    a, b = (dim0, dim1) if axis0 is None else (axis0, axis1)
    dims[a], dims[b] = dims[b], dims[a]
    return _permute(t, self, dims)


@_handles("squeeze")
def _squeeze(t, self, dim=None):
    rank = len(self.shape)
    dims = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = sorted({dim % rank for dim in dims if self.shape[dim] == 1})
    if not gone:
        return self
    left = [dim for dim in range(rank) if dim not in gone]
    return t.emit(
        "squeeze",
        self,
        shape=[self.shape[dim] for dim in left],
        layout=[left.index(axis) for axis in self.layout if axis in left],
        axes=[self.axis(dim) for dim in gone],
    )


@_handles("unsqueeze")
def _unsqueeze(t, self, dim):
    rank = len(self.shape) + 1
    dim = dim % rank
    return _view(t, self, [*self.shape[:dim], 1, *self.shape[dim:]])


@_handles("expand", "expand_as")
def _expand(t, self, **_):
    return self  # the operation behind it expands its values by itself


@_handles("view", "reshape", "_unsafe_view", "flatten", "unflatten")
def _view(t, self, size=None, shape=None, **_):
    """Axes of torch's that are merged are brought side by side; then those that are cut are cut."""
    size = list(size if shape is None else shape)
    if -1 in size:
        rest = math.prod(n for n in size if n != -1)
        size[size.index(-1)] = math.prod(self.shape) // rest
    groups = _groups(self.shape, size)
    if groups[0] != ([BATCH], [BATCH]):
        raise _Unsupported("it mixes the images of a batch")
    value, place = self, 0
    for old, new in groups:
        if old != new:
            value = _cut(t, _merge(t, value, place, len(old)), place, new)
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


def _merge(t, value: Value, place: int, count: int) -> Value:
    """Torch's axes from a place on as one; those of length one are dropped, which moves nothing."""
    ones = [i for i in range(place, place + count) if value.shape[i] == 1]
    ones = ones[1:] if len(ones) == count else ones
    value, count = _squeeze(t, value, ones), count - len(ones)
    if count == 1:
        return value
    rank, run = len(value.shape), tuple(range(place, place + count))
    at = [value.layout.index(axis) for axis in run]
    if at != list(range(at[0], at[0] + count)):
        others = [axis for axis in value.layout if axis not in run[1:]]
        at_first = others.index(place)
        value = t.lay(value, (*others[:at_first], *run, *others[at_first + 1 :]))
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
    return t.emit("flatten", value, shape=shape, layout=layout, start=start, stop=stop)


def _cut(t, value: Value, place: int, sizes: Sequence[int]) -> Value:
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
    return t.emit("unflatten", value, shape=shape, layout=layout, axis=axis, sizes=list(sizes))


@_handles("pad", "constant_pad_nd")
def _pad(t, self, pad, mode="constant", value=None):
    value_ = t.channels_last(self)
    pairs = [list(pad[i : i + 2]) for i in range(0, len(pad), 2)]  # of the last axis first
    if mode != "constant" or len(self.shape) != 4 or min(pad) < 0 or any(map(any, pairs[2:])):
        raise _Unsupported("only a constant around a map can be")
    pads = [*reversed(pairs), [0, 0]][-3:][:2] if len(pairs) == 2 else [[0, 0], pairs[0]]
    shape = [*self.shape[:2], *(n + sum(p) for n, p in zip(self.shape[2:], pads, strict=True))]
    fill = float(value or 0)
    return t.emit("pad", value_, shape=shape, layout=(0, 2, 3, 1), padding=pads, value=fill)
