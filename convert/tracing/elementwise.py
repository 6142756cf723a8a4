"""What acts on each value alone, on two of them, or sums them up."""

import math
from typing import Any

from convert.operators import torch
from convert.tracing.writer import HANDLERS, Constant, Handler, Unsupported, Value, handles


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
            "exp",
            "hardsigmoid",
            "hardswish",
            "mish",
            "neg",
            "relu",
            "relu6",
            "rsqrt",
            "sigmoid",
            "silu",
            "sqrt",
            "tanh",
        )
    },
    "leaky_relu": _elementwise("leaky_relu", slope="negative_slope"),
    "elu": _elementwise("elu", alpha="alpha", scale="scale", input_scale="input_scale"),
}


@handles("selu")
def _selu(writer, self):
    alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return writer.same("elu", self, alpha=alpha, scale=scale)


@handles("celu")
def _celu(writer, self, alpha):
    return writer.same("elu", self, alpha=alpha, input_scale=1 / alpha)


@handles("softplus")
def _softplus(writer, self, beta, threshold):
    if (beta, threshold) != (1, 20):
        raise Unsupported("only with beta 1 and threshold 20")
    return writer.same("softplus", self)


@handles("gelu")
def _gelu(writer, self, approximate):
    return writer.same("gelu", self, approximate=approximate == "tanh")


@handles("hardtanh")
def _hardtanh(writer, self, min_val, max_val):
    return _clamp(writer, self, min_val, max_val)


@handles("clamp", "clamp_min", "clamp_max")
def _clamp(writer, self, min=None, max=None):
    limits = {"low": min, "high": max}
    if (min, max) == (0, 6):
        return writer.same("relu6", self)
    return writer.same("clamp", self, **{k: float(v) for k, v in limits.items() if v is not None})


@handles("softmax", "_softmax")
def _softmax(writer, self, dim, **_):
    return writer.same("softmax", self, axis=self.axis(dim))


@handles("dropout", "alpha_dropout", "feature_dropout", "clone", "contiguous", "detach", "alias")
def _identity(writer, self=None, input=None, **_):
    kept = self if input is None else input
    module = writer.module
    if module in writer.leaves and module:  # a dropout is a layer by torch's name
        return writer.same("dropout", kept)
    return kept


@handles("_to_copy", "to")
def _to(writer, self, **_):
    return self


@handles("pow")
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


@handles("addcmul")
def _addcmul(writer, self, tensor1, tensor2, value=1):
    if value != 1:
        raise Unsupported("it also scales")
    return HANDLERS["add"](writer, self, HANDLERS["mul"](writer, tensor1, tensor2))


@handles("rsub")
def _rsub(writer, self, other, alpha=1):
    return HANDLERS["sub"](writer, other, self, alpha)


@handles("reciprocal")
def _reciprocal(writer, self):
    return writer.same("pow", self, exponent=-1.0)


@handles("square")
def _square(writer, self):
    return writer.same("pow", self, exponent=2.0)


# ---- reductions


def reduce(writer, value: Value, dims: Any, keep: bool, *, operation: str) -> Value:
    """Writes a sum, mean or maximum over some of torch's axes down."""
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
        return reduce(writer, self, dim, keepdim, operation=operation)

    return handler


HANDLERS |= {name: _reduction(name) for name in ("mean", "sum", "amax")}


@handles("linalg_vector_norm", "norm")
def _norm(writer, self, ord=2, p=2, dim=None, keepdim=False, dtype=None):
    if ord != 2 or p != 2:
        raise Unsupported("only the norm of order 2 can be")
    return reduce(writer, self, dim, keepdim, operation="norm")
