"""Exact re-evaluation of only what a changing rectangle of the image can reach.

A patch changes few pixels, a convolution spreads a change by a few pixels more, and everything
beyond keeps the value that it has for the clean image. `Incremental` is an interpreter of a
network's jaxpr that makes use of this: it evaluates the network once for the clean image and keeps
what lies around the growing rectangle (`prepare`), and then computes the rectangle alone (`step`),
for as many patches as wanted. Values and gradients are those of the full evaluation.

How a rectangle grows: rows [low, high) of a map of n rows, seen through windows of k rows with
stride s behind p rows of padding, change the outputs

    [ceil((low + p - k + 1) / s), floor((high - 1 + p) / s) + 1), cut to the rows that there are,

and these read rows [out_low s - p, (out_high - 1) s - p + k) of the input, where what lies outside
the map is padding. Sums of two maps grow to the hull of both rectangles. At a primitive without a
rule the whole map is put together, and everything behind it is evaluated in full.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jaxtyping import Array, Float

from gcpatch.networks import layers

FULL = "full"


class Span(NamedTuple):
    """Rows or columns [low, high) of a map."""

    low: int
    high: int


Box = tuple[Span, Span]


class Operation(NamedTuple):
    """What becomes of one equation of the jaxpr, some of whose inputs change.

    Attributes:
        boxes: the changed rectangle of each input; `FULL` where all of it may change, None where
            nothing does.
        hulls: the rectangle of each changed input that is put together before the equation runs.
        output: the changed rectangle of the output, or `FULL`.
        pads: of a window operation, the padding that is left to do, (low, high) for both axes.
        read: of a window operation, the part of the hull that it reads, relative to the hull.
    """

    boxes: tuple[Any, ...]
    hulls: tuple[Any, ...]
    output: Any
    pads: tuple[tuple[int, int], ...] = ()
    read: Any = None


def _hull(first: Box, second: Box) -> Box:
    (rows, columns), (more_rows, more_columns) = first, second
    return (
        Span(min(rows.low, more_rows.low), max(rows.high, more_rows.high)),
        Span(min(columns.low, more_columns.low), max(columns.high, more_columns.high)),
    )


# ---- rules: (equation, changed rectangles of its inputs) -> Operation; None where they fail


def _window(equation, boxes, size, strides, padding, dilation=(1, 1)) -> Operation | None:
    """Slides a window over the first input."""
    if boxes[0] is None or any(box is not None for box in boxes[1:]):
        return None
    lengths = equation.invars[0].aval.shape[1:3]
    outputs = equation.outvars[0].aval.shape[1:3]
    need, pads, changed = [], [], []
    for axis, (low, high) in enumerate(boxes[0]):
        stride, pad = strides[axis], padding[axis][0]
        width = (size[axis] - 1) * dilation[axis] + 1
        first = min(max(0, -(-(low + pad - width + 1) // stride)), outputs[axis] - 1)
        last = max(min(outputs[axis] - 1, (high - 1 + pad) // stride), first)
        start, stop = first * stride - pad, last * stride - pad + width
        need.append(Span(max(0, start), min(lengths[axis], stop)))
        pads.append((max(0, -start), max(0, stop - lengths[axis])))
        changed.append(Span(first, last + 1))
    if any(span.low >= span.high for span in need):
        return None  # these windows see padding alone
    hull = _hull(boxes[0], (need[0], need[1]))
    read = tuple(slice(n.low - h.low, n.high - h.low) for n, h in zip(need, hull, strict=True))
    return Operation(boxes, (hull, *boxes[1:]), (changed[0], changed[1]), tuple(pads), read)


def _convolution(equation, boxes) -> Operation | None:
    params = equation.params
    numbers = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, layers.DIMENSIONS)
    if (
        params["dimension_numbers"] != numbers
        or params["batch_group_count"] != 1
        or set(params["lhs_dilation"]) != {1}
    ):
        return None
    size = equation.invars[1].aval.shape[:2]
    return _window(
        equation, boxes, size, params["window_strides"], params["padding"], params["rhs_dilation"]
    )


def _pooling(equation, boxes) -> Operation | None:
    params, inner = equation.params, slice(1, 3)
    size = params["window_dimensions"]
    if (
        len(size) != 4
        or size[0] * size[3] != 1
        or {*params["base_dilation"], *params["window_dilation"]} != {1}
    ):
        return None
    return _window(
        equation, boxes, size[inner], params["window_strides"][inner], params["padding"][inner]
    )


def _elementwise(equation, boxes) -> Operation | None:
    """Widens the inputs that change to their hull; the others must be constant over the map."""
    for variable, box in zip(equation.invars, boxes, strict=True):
        shape = variable.aval.shape
        if box is None and shape != () and (len(shape) != 4 or shape[1:3] != (1, 1)):
            return None
    hull = functools.reduce(_hull, [box for box in boxes if box is not None])
    return Operation(boxes, tuple(box and hull for box in boxes), hull)


def _custom(equation, boxes) -> Operation | None:
    """The one function with a derivative of its own that is known to be elementwise: ReLU."""
    names = [inner.params.get("name") for inner in equation.params["call_jaxpr"].jaxpr.eqns]
    return _elementwise(equation, boxes) if names == ["relu"] else None


ELEMENTWISE = (
    "abs", "add", "clamp", "convert_element_type", "copy", "div", "erf", "exp", "expm1",
    "integer_pow", "log", "log1p", "logistic", "max", "min", "mul", "neg", "pow", "rsqrt", "sign",
    "sqrt", "square", "sub", "tanh",
)  # fmt: skip
RULES: dict[str, Callable[[Any, tuple], Operation | None]] = {
    "conv_general_dilated": _convolution,
    "custom_jvp_call": _custom,
    "reduce_window_max": _pooling,
    **dict.fromkeys(ELEMENTWISE, _elementwise),
}


def _plan(jaxpr: core.Jaxpr, box: Box) -> tuple[tuple[Operation | None, ...], Any]:
    """What becomes of each equation, None where nothing changes; and of the output."""
    changed: dict[Any, Any] = {jaxpr.invars[-1]: box}
    operations: list[Operation | None] = []
    for equation in jaxpr.eqns:
        boxes = tuple(
            None if isinstance(variable, core.Literal) else changed.get(variable)
            for variable in equation.invars
        )
        if all(found is None for found in boxes):
            operations.append(None)
            continue
        rule = RULES.get(equation.primitive.name)
        operation = rule(equation, boxes) if rule and FULL not in boxes else None
        operation = operation or Operation(boxes, (FULL,) * len(boxes), FULL)
        operations.append(operation)
        changed |= dict.fromkeys(equation.outvars, operation.output)
    return tuple(operations), changed.get(jaxpr.outvars[0])


# ---- evaluation


def _bind(equation, values) -> list[Any]:
    """An equation's outputs, as JAX computes them."""
    found = equation.primitive.get_bind_params(equation.params)
    functions, params = found if isinstance(found, tuple) else ((), found)  # JAX before 0.10
    outputs = equation.primitive.bind(*functions, *values, **params)
    return outputs if equation.primitive.multiple_results else [outputs]


def _apply(operation: Operation, equation, values) -> list[Any]:
    """An equation's outputs on rectangles."""
    params = equation.params
    match equation.primitive.name:
        case "conv_general_dilated":
            image = values[0][:, *operation.read]
            return [layers.conv(
                image, values[1], params["window_strides"], operation.pads,
                rhs_dilation=params["rhs_dilation"], precision=params["precision"],
                feature_group_count=params["feature_group_count"],
            )]  # fmt: skip
        case "reduce_window_max":
            size, strides = params["window_dimensions"][1:3], params["window_strides"][1:3]
            return [layers.max_pool(values[0][:, *operation.read], size, strides, operation.pads)]
        case "custom_jvp_call":
            return [jax.nn.relu(*values)]
        case _:
            return _bind(equation, values)


def _frame(value: Array, box: Box, hull: Box) -> tuple[Array, Array, Array, Array]:
    """What of a map lies in the hull around a box: above, below, left, right."""
    (top, bottom), (left, right) = box
    wide = slice(*hull[1])
    return (
        value[:, hull[0].low : top, wide],
        value[:, bottom : hull[0].high, wide],
        value[:, top:bottom, hull[1].low : left],
        value[:, top:bottom, right : hull[1].high],
    )


def _surround(tile: Array, frame: tuple[Array, Array, Array, Array]) -> Array:
    """A box with its frame: the hull."""
    above, below, left, right = frame
    return jnp.concatenate([above, jnp.concatenate([left, tile, right], 2), below], 1)


def _paste(value: Array, tile: Array, box: Box) -> Array:
    return lax.dynamic_update_slice(value, tile, (0, box[0].low, box[1].low, 0))


def _keep(value: Any, box: Any, hull: Any) -> Any:
    """What of a clean input an operation needs beside the tile."""
    if box is None or box is FULL:
        return None
    return value if hull is FULL else _frame(value, box, hull)


def _complete(value: Any, box: Any, hull: Any, kept: Any) -> Any:
    """The input of an operation, from the tile and from what was kept."""
    if box is None or box is FULL:
        return value
    return _paste(kept, value, box) if hull is FULL else _surround(value, kept)


class Memory(NamedTuple):
    """What `Incremental.step` needs of the clean image.

    Attributes:
        kept: for each operation and each of its inputs, what lies around the changed rectangle
            (above, below, left, right); all of the input where there is no rule; None if nothing.
        output: the clean output.
    """

    kept: list[list[Any]]
    output: Array


@dataclass(frozen=True, eq=False)
class Incremental:
    """A function of an image, prepared for changes of one square; `incremental` makes it.

    Attributes:
        jaxpr: the function, of the leaves of its parameters and a batch of one image.
        operations: what becomes of each equation; None where nothing changes.
        output: the changed rectangle of the output.
    """

    jaxpr: Any
    operations: tuple[Operation | None, ...]
    output: Any

    def prepare(self, params: Any, image: Float[Array, "h w c"]) -> Memory:
        """Evaluates the function for the clean image and keeps what `step` needs."""
        kept: list[list[Any]] = []

        def run(operation, equation, values):
            if operation is not None:
                hulls = operation.hulls
                kept.append(list(map(_keep, values, operation.boxes, hulls)))
            return _bind(equation, values)

        output = self._evaluate(params, image, run)
        return Memory(kept, output)

    def step(self, params: Any, memory: Memory, tile: Float[Array, "s s c"]) -> Array:
        """The function of the clean image with this tile in the square's place."""
        kept = iter(memory.kept)

        def run(operation, equation, values):
            if operation is None:
                return _bind(equation, values)
            whole = list(map(_complete, values, operation.boxes, operation.hulls, next(kept)))
            return (
                _bind(equation, whole)
                if operation.output is FULL
                else _apply(operation, equation, whole)
            )

        output = self._evaluate(params, tile, run)
        return _complete(output[None], self.output, FULL, memory.output[None])[0]

    def _evaluate(self, params: Any, image: Array, run: Callable) -> Array:
        jaxpr = self.jaxpr.jaxpr
        inputs = [*self.jaxpr.consts, *jax.tree.leaves(params), image[None]]
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], inputs, strict=True))
        for operation, equation in zip(self.operations, jaxpr.eqns, strict=True):
            read = [v.val if isinstance(v, core.Literal) else values[v] for v in equation.invars]
            values |= dict(zip(equation.outvars, run(operation, equation, read), strict=True))
        return values[jaxpr.outvars[0]][0]


def incremental(
    function: Callable[[Any, Float[Array, "1 h w c"]], Array], params: Any,
    shape: tuple[int, int, int], corner: tuple[int, int], size: int, dtype: Any = jnp.float32,
) -> Incremental:  # fmt: skip
    """Prepares a function for changes of one square of its image.

    Args:
        function: of parameters and a batch of one image; any pure function, fastest for CNNs.
        params: a pytree of parameters, or of their shapes.
        shape: of the image, (height, width, channel).
        corner: row and column of the square's top left pixel.
        size: the square's side in pixels.
        dtype: of the image.
    """
    with layers.plain():
        jaxpr = jax.make_jaxpr(function)(params, jax.ShapeDtypeStruct((1, *shape), dtype))
    box = (Span(corner[0], corner[0] + size), Span(corner[1], corner[1] + size))
    operations, output = _plan(jaxpr.jaxpr, box)
    return Incremental(jaxpr, operations, output)
