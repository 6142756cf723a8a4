"""Exact re-evaluation of only what a changing rectangle of the image can reach.

A patch changes few pixels, a convolution spreads a change by a few pixels more, and everything
beyond keeps the value that it has for the clean image. `Incremental` is an interpreter of a
network's jaxpr that makes use of this: it evaluates the network once for the clean image and keeps
what lies around the growing rectangle (`precompute`), and then computes that alone (`run`),
for as many patches as wanted. Values and gradients are those of the full evaluation.

How a rectangle grows: rows [low, high) of a map of n rows, seen through windows of k rows with
stride s behind p rows of padding, change the outputs

    [ceil((low + p - k + 1) / s), floor((high - 1 + p) / s) + 1), cut to the rows that there are,

and these read rows [out_low s - p, (out_high - 1) s - p + k) of the input, where what lies outside
the map is padding. Sums of two maps grow to the hull of both rectangles. At a primitive without a
rule the whole map is put together, and everything behind it is evaluated in full.

What a program needs to know of a rectangle at compile time is its shape and that of its frame, not
its place: `Incremental` holds the shapes, and the places are data. Rectangles of one shape class,
such as all those away from the border by a multiple of the network's strides, share a program.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jaxtyping import Array, Float, Int

from gcpatch.interpreters.jaxpr import Equation, bind, evaluate, is_relu
from gcpatch.networks import lowering
from gcpatch.networks.network import ArrayLike

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

    Rules give boxes and hulls as they lie in the map; `_shape` takes the place out of them.
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


def _origin(box: Box) -> tuple[int, int]:
    return box[0].low, box[1].low


def _relative(box: Box, origin: tuple[int, int]) -> Box:
    rows, columns = (Span(low - o, high - o) for (low, high), o in zip(box, origin, strict=True))
    return rows, columns


# ---- rules: (equation, changed rectangles of its inputs) -> Operation; None where they fail


class Window(NamedTuple):
    """What a window operation slides over its first input, in rows and columns."""

    size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]


def window(equation) -> Window | None:
    """The window of a convolution or of a maximum over windows, None where no rule fits."""
    params, inner = equation.params, slice(1, 3)
    if equation.primitive.name == "conv_general_dilated":
        numbers = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, lowering.DIMENSIONS)
        if (
            params["dimension_numbers"] != numbers
            or params["batch_group_count"] != 1
            or set(params["lhs_dilation"]) != {1}
        ):
            return None
        sizes = zip(equation.invars[1].aval.shape[:2], params["rhs_dilation"], strict=True)
        size = tuple((width - 1) * dilation + 1 for width, dilation in sizes)
        return Window(size, params["window_strides"], params["padding"])
    size = params["window_dimensions"]
    if (
        len(size) != 4
        or size[0] * size[3] != 1
        or {*params["base_dilation"], *params["window_dilation"]} != {1}
    ):
        return None
    return Window(size[inner], params["window_strides"][inner], params["padding"][inner])


def _windowed(equation, boxes) -> Operation | None:
    """Slides a window over the first input."""
    found = window(equation)
    if found is None or boxes[0] is None or any(box is not None for box in boxes[1:]):
        return None
    lengths = equation.invars[0].aval.shape[1:3]
    outputs = equation.outvars[0].aval.shape[1:3]
    need, pads, changed = [], [], []
    for axis, (low, high) in enumerate(boxes[0]):
        width, stride, pad = found.size[axis], found.strides[axis], found.padding[axis][0]
        first = min(max(0, -(-(low + pad - width + 1) // stride)), outputs[axis] - 1)
        last = max(min(outputs[axis] - 1, (high - 1 + pad) // stride), first)
        start, stop = first * stride - pad, last * stride - pad + width
        need.append(Span(max(0, start), min(lengths[axis], stop)))
        pads.append((max(0, -start), max(0, stop - lengths[axis])))
        changed.append(Span(first, last + 1))
    if any(span.low >= span.high for span in need):
        return None  # these windows see padding alone
    hull = _hull(boxes[0], (need[0], need[1]))
    read = _relative((need[0], need[1]), _origin(hull))
    return Operation(boxes, (hull, *boxes[1:]), (changed[0], changed[1]), tuple(pads), read)


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
    return _elementwise(equation, boxes) if is_relu(equation) else None


ELEMENTWISE = (
    "abs", "add", "clamp", "convert_element_type", "copy", "div", "erf", "exp", "expm1",
    "integer_pow", "log", "log1p", "logistic", "max", "min", "mul", "neg", "pow", "rsqrt", "sign",
    "sqrt", "square", "sub", "tanh",
)  # fmt: skip
RULES: dict[str, Callable[[Any, tuple], Operation | None]] = {
    "conv_general_dilated": _windowed,
    "custom_jvp_call": _custom,
    "reduce_window_max": _windowed,
    **dict.fromkeys(ELEMENTWISE, _elementwise),
}


def plan(jaxpr: core.Jaxpr, box: Box) -> list[Operation | None]:
    """What becomes of each equation, None where nothing changes; at last, of the output."""
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
    return [*operations, Operation((changed.get(jaxpr.outvars[0]),), (FULL,), FULL)]


def _shape(operation: Operation | None) -> tuple[Operation | None, list[tuple[int, int]]]:
    """An operation without its place, boxes relative to hulls; and the place: the hulls' origins.

    A box in a full hull lies at its own origin.
    """
    if operation is None:
        return None, []
    boxes, hulls, origins = [], [], []
    for box, hull in zip(operation.boxes, operation.hulls, strict=True):
        if _changes_inside(box):
            origins.append(_origin(box if hull is FULL else hull))
            box = _relative(box, origins[-1])
            hull = FULL if hull is FULL else _relative(hull, origins[-1])
        boxes.append(box)
        hulls.append(hull)
    output = operation.output
    output = FULL if output is FULL else _relative(output, _origin(output))
    return operation._replace(boxes=tuple(boxes), hulls=tuple(hulls), output=output), origins


def _changes_inside(box: Any) -> bool:
    """Whether a rectangle of an input changes: not nothing, and not all of it."""
    return box is not None and box is not FULL


# ---- evaluation


def apply(operation: Operation, equation, values) -> list[Any]:
    """An equation's outputs on rectangles."""
    params = equation.params
    match equation.primitive.name if operation.output is not FULL else FULL:
        case "conv_general_dilated":
            return [lowering.conv(
                _cut(values[0], operation.read), values[1],
                params["window_strides"], operation.pads,
                rhs_dilation=params["rhs_dilation"], precision=params["precision"],
                feature_group_count=params["feature_group_count"],
            )]  # fmt: skip
        case "reduce_window_max":
            size, strides = params["window_dimensions"][1:3], params["window_strides"][1:3]
            image = _cut(values[0], operation.read)
            return [lowering.max_pool(image, size, strides, operation.pads)]
        case "custom_jvp_call":
            return [jax.nn.relu(*values)]
        case _:
            return bind(equation, values)


def _cut(value: Array, box: Box) -> Array:
    return value[:, slice(*box[0]), slice(*box[1])]


def _frame(value: Array, box: Box) -> tuple[Array, Array, Array, Array]:
    """What of a map lies around a box: above, below, left, right."""
    (top, bottom), (left, right) = box
    middle = value[:, top:bottom]
    return value[:, :top], value[:, bottom:], middle[:, :, :left], middle[:, :, right:]


def _surround(tile: Array, frame: tuple[Array, Array, Array, Array]) -> Array:
    """A box with its frame: the hull."""
    above, below, left, right = frame
    return jnp.concatenate([above, jnp.concatenate([left, tile, right], 2), below], 1)


def start(origin: Int[Array, "2"]) -> Int[Array, "4"]:
    """Where a rectangle of a map `[1, h, w, c]` begins, for dynamic slices."""
    return jnp.pad(origin, 1)


def _keep(value: Any, box: Any, hull: Any, origins: Iterator[Array]) -> Any:
    """What of a clean input an operation needs beside the tile: a frame, or map and place."""
    if not _changes_inside(box):
        return None
    origin = next(origins)
    if hull is FULL:
        return value, origin
    size = (1, hull[0].high, hull[1].high, value.shape[3])
    return _frame(lax.dynamic_slice(value, start(origin), size), box)


def _complete(value: Any, box: Any, hull: Any, kept: Any) -> Any:
    """The input of an operation, from the tile and from what was kept."""
    if not _changes_inside(box):
        return value
    if hull is FULL:
        clean, origin = kept
        return lax.dynamic_update_slice(clean, value, start(origin))
    return _surround(value, kept)


Memory = list[list[Any]]  # what `_keep` gives for each operation and each of its inputs


@dataclass(frozen=True)
class Incremental:
    """A function of an image, prepared for changes of a square; `incremental` makes it.

    Two of them are equal, and share a compiled program, where only the square's place differs.

    Attributes:
        jaxpr: the function, of the leaves of its parameters and a batch of one image.
        operations: what becomes of each equation, None where nothing changes; and of the output.
    """

    jaxpr: core.ClosedJaxpr
    operations: tuple[Operation | None, ...]

    def precompute(
        self, params: Any, image: Float[Array, "h w c"], places: Int[ArrayLike, "n 2"]
    ) -> Memory:
        """Evaluates the function for the clean image and keeps what `run` needs."""
        origins = iter(jnp.asarray(places))
        memory: Memory = []

        def complete(operation, values):
            parts = zip(values, operation.boxes, operation.hulls, strict=True)
            memory.append([_keep(*part, origins) for part in parts])
            return values

        inputs = [*jax.tree.leaves(params), image[None]]
        evaluate_changes(self.jaxpr, self.operations, inputs, complete, plain)
        return memory

    def run(self, params: Any, memory: Memory, tile: Float[Array, "s s c"]) -> Array:
        """The function of the clean image with this tile in the square's place."""
        kept = iter(memory)

        def complete(operation, values):
            return list(map(_complete, values, operation.boxes, operation.hulls, next(kept)))

        inputs = [*jax.tree.leaves(params), tile[None]]
        return evaluate_changes(self.jaxpr, self.operations, inputs, complete, apply)


def evaluate_changes(
    closed: core.ClosedJaxpr,
    operations: Sequence[Operation | None],
    inputs: Sequence[Any],
    complete: Callable,
    apply: Callable,
) -> Array:
    """A function of an image or of a tile: completes the inputs of what changes and applies it."""
    remaining = iter(operations)

    def bind_operation(equation: Equation, values: list[Any]) -> list[Any]:
        operation = next(remaining)
        if operation is None:
            return bind(equation, values)
        return apply(operation, equation, complete(operation, values))

    output = evaluate(closed, inputs, bind_operation)
    return complete(next(remaining), output)[0][0]


def plain(operation: Operation, equation: Any, values: list[Any]) -> list[Any]:
    """An equation's outputs on whole maps."""
    return bind(equation, values)


def incremental(
    jaxpr: core.ClosedJaxpr, corner: tuple[int, int], size: int
) -> tuple[Incremental, Int[np.ndarray, "n 2"]]:
    """Prepares a function for changes of one square of its image.

    Args:
        jaxpr: the function, from `trace`.
        corner: row and column of the square's top left pixel.
        size: the square's side in pixels.

    Returns:
        The evaluation, the same for all places of one shape class; and where, for `precompute`.
    """
    box = (Span(corner[0], corner[0] + size), Span(corner[1], corner[1] + size))
    shaped = [_shape(operation) for operation in plan(jaxpr.jaxpr, box)]
    places = [origin for _, origins in shaped for origin in origins]
    operations = tuple(operation for operation, _ in shaped)
    return Incremental(jaxpr, operations), np.asarray(places, np.int32).reshape(-1, 2)
