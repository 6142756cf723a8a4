"""How a rectangle that changes in an image grows from map to map, as far as the output.

Rows [low, high) of a map of n rows, seen through windows of k rows with stride s behind p rows of
padding, change the outputs

    [ceil((low + p - k + 1) / s), floor((high - 1 + p) / s) + 1), cut to the rows that there are,

and these read rows [out_low s - p, (out_high - 1) s - p + k) of the input, where what lies outside
the map is padding. Sums of two maps grow to the hull of both rectangles. At a primitive without a
rule the whole map is put together, and everything behind it changes in full.

With a margin, windows change no more than the square's own cells and so many cells around them, the
near field; what would change beyond is left as it was. Own cells of a map of h rows, of an image of
H, are rows [low h / H, high h / H), rounded outwards. Every rectangle of the near field lies in the
one that there is without a margin.

All rectangles here lie where they lie in their maps.
"""

import functools
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, NamedTuple, TypeAlias

from jax import lax
from jax.extend import core

from gcpatch.interpreters.jaxpr import Atom, Equation, is_relu, shape_of
from gcpatch.networks import lowering


class Span(NamedTuple):
    """Rows or columns [low, high) of a map."""

    low: int
    high: int


class Box(NamedTuple):
    """A rectangle of a map."""

    rows: Span
    columns: Span

    @property
    def origin(self) -> tuple[int, int]:
        """Its first row and column."""
        return self.rows.low, self.columns.low

    @property
    def size(self) -> tuple[int, int]:
        """Its rows and columns."""
        return self.rows.high - self.rows.low, self.columns.high - self.columns.low

    def hull(self, other: "Box") -> "Box":
        """The smallest rectangle that holds both."""
        rows, columns = (
            Span(min(a.low, b.low), max(a.high, b.high)) for a, b in zip(self, other, strict=True)
        )
        return Box(rows, columns)

    def seen_from(self, origin: tuple[int, int]) -> "Box":
        """The same rectangle, counted from another row and column."""
        rows, columns = (
            Span(low - o, high - o) for (low, high), o in zip(self, origin, strict=True)
        )
        return Box(rows, columns)


class Full(Enum):
    """Stands for all of a map, as its one value `FULL`."""

    FULL = "full"


FULL: Final = Full.FULL
Extent: TypeAlias = Box | Full  # how much of a map changes, where any of it does
Pads: TypeAlias = tuple[tuple[int, int], tuple[int, int]]  # (low, high) of rows and of columns


class Reading(NamedTuple):
    """What a window operation reads of the rectangle that is put together for it.

    Attributes:
        part: the rows and columns that it reads, counted from the rectangle's origin.
        pads: the padding that is left to do around them.
    """

    part: Box
    pads: Pads


class Change(NamedTuple):
    """What an equation does with the rectangles that change.

    Attributes:
        inputs: what changes of each input, None where nothing does.
        hull: the rectangle that is put together, of each input that changes, before it runs.
        output: what changes of its output.
        reading: of a window operation, what it reads of the hull.
    """

    inputs: tuple[Extent | None, ...]
    hull: Extent
    output: Extent
    reading: Reading | None = None


class Plan(NamedTuple):
    """What becomes of each equation, None where nothing changes; and what changes of the output."""

    changes: list[Change | None]
    output: Extent | None


def plan(jaxpr: core.Jaxpr, box: Box, margin: int | None = None) -> Plan:
    """Follows a rectangle of a program's last input, the image, through its equations.

    Args:
        jaxpr: the program.
        box: the rectangle.
        margin: cells beside the rectangle's own to which windows are held; None for no limit.
    """
    image = jaxpr.invars[-1]
    changed: dict[core.Var, Extent] = {image: box}
    reached: list[Extent | None] = [None] * len(jaxpr.eqns)
    if margin is not None:
        reached = [change and change.output for change in plan(jaxpr, box).changes]
    changes: list[Change | None] = []
    for equation, within in zip(jaxpr.eqns, reached, strict=True):
        inputs = tuple(look_up(changed, atom) for atom in equation.invars)
        change = None
        if any(extent is not None for extent in inputs):
            rule = RULES.get(equation.primitive.name)
            if margin is not None and isinstance(within, Box) and rule is _windowed:
                count = shape_of(equation.outvars[0])[1:3]
                rule = functools.partial(
                    _windowed, near=_near(box, shape_of(image)[1:3], margin, count, within)
                )
            boxes = tuple(extent for extent in inputs if extent is not FULL)
            if rule is not None and len(boxes) == len(inputs):
                change = rule(equation, boxes)
            change = change or Change(inputs, hull=FULL, output=FULL)
            changed |= dict.fromkeys(equation.outvars, change.output)
        changes.append(change)
    return Plan(changes, look_up(changed, jaxpr.outvars[0]))


def look_up(changed: dict[core.Var, Any], atom: Atom) -> Any:
    """What changes of an input, None where nothing does, as of all literals."""
    return None if isinstance(atom, core.Literal) else changed.get(atom)


def _near(
    box: Box, image: tuple[int, ...], margin: int, cells: tuple[int, ...], within: Box
) -> Box:
    """The part of `within` that a square of the image covers, and `margin` cells beside it."""
    spans = []
    for (low, high), length, count, (first, end) in zip(box, image, cells, within, strict=True):
        start = min(max(low * count // length - margin, first), end - 1)
        spans.append(Span(start, max(min(-(-high * count // length) + margin, end), start + 1)))
    return Box(*spans)


# ---- rules: from what changes of an equation's inputs to a `Change`, None where they do not apply

Boxes: TypeAlias = tuple[Box | None, ...]


class Window(NamedTuple):
    """What a window operation slides over its first input, along one axis."""

    size: int
    stride: int
    padding: int  # before the first row


class Sight(NamedTuple):
    """Along one axis: the input's rows that are read, padding beside them, the output's rows."""

    need: Span
    pads: tuple[int, int]
    output: Span


def windows_of(equation: Equation) -> tuple[Window, Window] | None:
    """The windows along rows and columns, None where no rule fits.

    Padding with zeros is a window of one cell, which sees some of the padding.
    """
    params = equation.params
    if equation.primitive.name == "conv_general_dilated":
        usual = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, lowering.DIMENSIONS)
        if (
            params["dimension_numbers"] != usual
            or params["batch_group_count"] != 1
            or set(params["lhs_dilation"]) != {1}
        ):
            return None
        widths = zip(shape_of(equation.invars[1])[:2], params["rhs_dilation"], strict=True)
        sizes = [(width - 1) * dilation + 1 for width, dilation in widths]
        strides, padding = params["window_strides"], params["padding"]
    elif equation.primitive.name == "pad":
        fill, config = equation.invars[1], params["padding_config"]
        if (
            len(config) != 4
            or any(any(axis) for axis in (config[0], config[3]))
            or any(low < 0 or high < 0 or inner for low, high, inner in config)
            or not (isinstance(fill, core.Literal) and fill.val == 0)
        ):
            return None
        sizes, strides, padding = [1, 1], (1, 1), [axis[:2] for axis in config[1:3]]
    else:
        sizes = params["window_dimensions"]
        if (
            len(sizes) != 4
            or sizes[0] * sizes[3] != 1
            or {*params["base_dilation"], *params["window_dilation"]} != {1}
        ):
            return None
        sizes = sizes[1:3]
        strides, padding = params["window_strides"][1:3], params["padding"][1:3]
    rows, columns = (
        Window(size, stride, before)
        for size, stride, (before, _) in zip(sizes, strides, padding, strict=True)
    )
    return rows, columns


def _see(window: Window, changed: Span, *, length: int, near: Span) -> Sight:
    """What windows over rows that change read and give, of `length` rows, and of outputs `near`."""
    size, stride, pad = window
    first = -(-(changed.low + pad - size + 1) // stride)
    last = (changed.high - 1 + pad) // stride
    first = min(max(near.low, first), near.high - 1)
    last = max(min(near.high - 1, last), first)
    start, stop = first * stride - pad, last * stride - pad + size
    return Sight(
        need=Span(max(0, start), min(length, stop)),
        pads=(max(0, -start), max(0, stop - length)),
        output=Span(first, last + 1),
    )


def _windowed(equation: Equation, boxes: Boxes, near: Box | None = None) -> Change | None:
    """Slides a window over the first input; of its outputs only those that are `near` change."""
    windows, (box, *others) = windows_of(equation), boxes
    if windows is None or box is None or any(other is not None for other in others):
        return None
    lengths = shape_of(equation.invars[0])[1:3]
    limits = near or Box(*(Span(0, count) for count in shape_of(equation.outvars[0])[1:3]))
    rows, columns = (
        _see(window, changed, length=length, near=limit)
        for window, changed, length, limit in zip(windows, box, lengths, limits, strict=True)
    )
    need = Box(rows.need, columns.need)
    if any(span.low >= span.high for span in need):
        return None  # these windows see padding alone
    hull = box.hull(need)
    return Change(
        inputs=boxes,
        hull=hull,
        output=Box(rows.output, columns.output),
        reading=Reading(need.seen_from(hull.origin), (rows.pads, columns.pads)),
    )


def _elementwise(equation: Equation, boxes: Boxes) -> Change | None:
    """Widens the inputs that change to their hull; the others must be constant over the map."""
    for atom, box in zip(equation.invars, boxes, strict=True):
        shape = shape_of(atom)
        if box is None and shape != () and (len(shape) != 4 or shape[1:3] != (1, 1)):
            return None
    hull = functools.reduce(Box.hull, [box for box in boxes if box is not None])
    return Change(inputs=boxes, hull=hull, output=hull)


def _of_pixels(equation: Equation, boxes: Boxes) -> Change | None:
    """Of each pixel by itself: operations on axes behind rows and columns alone."""
    box, *others = boxes
    if box is None or any(other is not None for other in others):
        return None
    params, shape = equation.params, shape_of(equation.invars[0])
    outputs, first = shape_of(equation.outvars[0]), range(3)  # of one image, rows and columns
    match equation.primitive.name:
        case "dot_general":
            (left, _), (batch, _) = params["dimension_numbers"]
            apart = not batch and min(left) >= 3
        case "broadcast_in_dim":
            apart = tuple(params["broadcast_dimensions"])[:3] == tuple(first)
        case "transpose":
            apart = tuple(params["permutation"])[:3] == tuple(first)
        case "slice":
            steps = params["strides"] or (1,) * len(shape)
            apart = all(steps[axis] == 1 for axis in first)
        case "reshape":
            apart = params["dimensions"] is None
        case _:  # a reduction
            apart = min(params["axes"]) >= 3
    return Change(boxes, hull=box, output=box) if apart and shape[:3] == outputs[:3] else None


def _concatenate(equation: Equation, boxes: Boxes) -> Change | None:
    """Widens the inputs, all of which change, to their hull."""
    found = [box for box in boxes if box is not None]
    if len(found) < len(boxes) or equation.params["dimension"] < 3:
        return None
    hull = functools.reduce(Box.hull, found)
    return Change(inputs=boxes, hull=hull, output=hull)


def _custom(equation: Equation, boxes: Boxes) -> Change | None:
    """The one function with a derivative of its own that is known to be elementwise: ReLU."""
    return _elementwise(equation, boxes) if is_relu(equation) else None


ARITHMETIC = ("add", "div", "integer_pow", "mul", "neg", "pow", "rsqrt", "sqrt", "square", "sub")
FUNCTIONS = ("erf", "erfc", "exp", "expm1", "log", "log1p", "logistic", "tanh")
CHOICES = ("abs", "clamp", "convert_element_type", "copy", "max", "min", "select_n", "sign")
COMPARISONS = ("eq", "ge", "gt", "le", "lt", "ne")
WINDOWED = ("conv_general_dilated", "pad", "reduce_window_max", "reduce_window_sum")
OF_PIXELS = (
    "broadcast_in_dim",
    "dot_general",
    "reduce_max",
    "reduce_sum",
    "reshape",
    "slice",
    "transpose",
)
RULES: dict[str, Callable[[Equation, Boxes], Change | None]] = {
    "concatenate": _concatenate,
    "custom_jvp_call": _custom,
    **dict.fromkeys(WINDOWED, _windowed),
    **dict.fromkeys(OF_PIXELS, _of_pixels),
    **dict.fromkeys((*ARITHMETIC, *FUNCTIONS, *CHOICES, *COMPARISONS), _elementwise),
}
