"""Exact re-evaluation of only what a window can reach, for a window at many places of an image.

`incremental.py` makes a program for each shape class of places, and a window that slides over an
image meets the borders of the deep maps in nearly as many ways as it has places. Here all places
share one program: at each map the rectangle has the size of the largest, moved where it would leave
the map. Such a rectangle holds what changes and something more, which is computed to be what it
was. Padding is part of the clean maps, so that windows never leave them.

`slide` prepares this in three passes: it plans what changes of each map at each place, finds for
each map rectangles of one size that hold it, and from these how each operation reads its inputs.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jaxtyping import Array, Float, Int

from gcpatch.interpreters.incremental import (
    Operation,
    Program,
    on_rectangles,
    on_whole_maps,
    start,
)
from gcpatch.interpreters.jaxpr import Atom, Equation, shape_of
from gcpatch.interpreters.rectangles import (
    FULL,
    WINDOWED,
    Box,
    Extent,
    Full,
    Pads,
    Plan,
    Reading,
    Span,
    look_up,
    plan,
    windows_of,
)

# Of the window operations.
PADDING = dict.fromkeys(WINDOWED, 0.0) | {"reduce_window_max": -np.inf}


class View(NamedTuple):
    """How an operation reads an input that changes inside a rectangle.

    Attributes:
        pads: of the clean map, filled with `fill`.
        hull: rows and columns of the part that is put together of clean map and rectangle.
        need: rows and columns of the hull that the operation reads, None for all of it.
    """

    pads: Pads
    fill: float
    hull: tuple[int, int]
    need: tuple[int, int] | None


Starts: TypeAlias = Int[Array, "views 3 2"]  # where each view's rectangle, hull and need begin
Clean: TypeAlias = list[Array]  # the padded clean map of each view


class Precomputed(NamedTuple):
    """What the clean image gives: the function's value, and what `Sliding.run` needs."""

    output: Array
    memory: Clean


class Sliding(Program[View | Full]):
    """A function of an image, prepared for a window at many places; `slide` makes it."""

    def precompute(self, params: Any, image: Float[Array, "h w c"]) -> Precomputed:
        """Evaluates the function for the clean image, once for all places."""
        memory: Clean = []

        def keep(value: Array, view: View | Full) -> Array:
            memory.append(_pad(value, view))
            return value

        output = self.evaluate(params, image, complete=keep, apply=on_whole_maps)
        return Precomputed(output, memory)

    def run(self, params: Any, memory: Clean, tile: Float[Array, "s s c"], starts: Starts) -> Array:
        """The function of the clean image with this tile in one place, given by its starts."""
        kept = zip(memory, starts, strict=True)

        def complete(value: Array, view: View | Full) -> Array:
            clean, (rectangle, hull, need) = next(kept)
            begin = partial(start, rank=clean.ndim)
            if view is FULL:
                return lax.dynamic_update_slice(clean, value, begin(rectangle))
            rest = clean.shape[3:]
            whole = lax.dynamic_slice(clean, begin(hull), (1, *view.hull, *rest))
            whole = lax.dynamic_update_slice(whole, value, begin(rectangle - hull))
            if view.need is None:
                return whole
            return lax.dynamic_slice(whole, begin(need - hull), (1, *view.need, *rest))

        return self.evaluate(params, tile, complete=complete, apply=on_rectangles)


class Slid(NamedTuple):
    """A sliding evaluation and where its views start for each row and each column of places.

    Stacked along a last axis, the starts of one row and one column are a place for `run`.
    """

    program: Sliding
    rows: Int[np.ndarray, "rows views 3"]
    columns: Int[np.ndarray, "columns views 3"]


def slide(
    jaxpr: core.ClosedJaxpr, *, rows: Sequence[int], columns: Sequence[int], size: int
) -> Slid:
    """Prepares a function for a square window at each of `rows` x `columns`.

    Args:
        jaxpr: the function, from `gcpatch.interpreters.jaxpr.trace`.
        rows: of the window's top left pixel.
        columns: likewise.
        size: the window's side in pixels.
    """
    count = max(len(rows), len(columns))  # a row's rectangles are the same in all columns
    corners = [
        (rows[min(i, len(rows) - 1)], columns[min(i, len(columns) - 1)]) for i in range(count)
    ]
    squares = [Box(Span(i, i + size), Span(j, j + size)) for i, j in corners]
    plans = [plan(jaxpr.jaxpr, square) for square in squares]
    rectangles = _rectangles(jaxpr.jaxpr, squares, plans)
    placed = [_operation(equation, rectangles) for equation in jaxpr.jaxpr.eqns]
    output = _view(jaxpr.jaxpr.outvars[0], rectangles, need=FULL)
    views = [view for _, views in placed for view in views] + [output]
    starts = np.stack([view.starts for view in views if view], 1).astype(np.int32)
    operations = tuple(operation for operation, _ in placed)
    program = Sliding(jaxpr, operations, output and output.view)
    return Slid(program, rows=starts[: len(rows), ..., 0], columns=starts[: len(columns), ..., 1])


# ---- second pass: rectangles of one size in each map


class Rectangles(NamedTuple):
    """A rectangle at each place: one size (rows, columns), and where it begins, `[place, 2]`."""

    size: np.ndarray
    starts: np.ndarray


Changed: TypeAlias = dict[core.Var, Rectangles | Full]  # what does not change is not in it


def _rectangles(jaxpr: core.Jaxpr, squares: Sequence[Box], plans: Sequence[Plan]) -> Changed:
    """What holds the changes of each map at each place."""
    image = jaxpr.invars[-1]
    changed: Changed = {image: _common(squares, image)}
    for index, equation in enumerate(jaxpr.eqns):
        changes = [place.changes[index] for place in plans]
        outputs = [change.output for change in changes if change is not None]
        if outputs:
            common = _common(outputs, equation.outvars[0])
            changed |= dict.fromkeys(equation.outvars, common)
    return changed


def _common(extents: Sequence[Extent], variable: core.Var) -> Rectangles | Full:
    """Rectangles of one size inside a map around one box at each place."""
    boxes = [extent for extent in extents if isinstance(extent, Box)]
    if len(boxes) < len(extents):
        return FULL
    low, high = np.moveaxis(np.array(boxes), -1, 0)
    size = (high - low).max(0)
    return Rectangles(size, np.minimum(low, _lengths(variable) - size))


def _lengths(atom: Atom) -> np.ndarray:
    """Rows and columns of a map."""
    return np.array(shape_of(atom)[1:3])


# ---- third pass: how operations read their inputs


class PlacedView(NamedTuple):
    """A view, and where its rectangle, hull and need begin in the padded map, `[place, 3, 2]`."""

    view: View | Full
    starts: np.ndarray


class PlacedOperation(NamedTuple):
    """What becomes of an equation, None where nothing changes; and the views of its inputs."""

    operation: Operation[View | Full] | None
    views: list[PlacedView | None]


def _operation(equation: Equation, changed: Changed) -> PlacedOperation:
    """What becomes of an equation, from what changes of its inputs and its output."""
    output = changed.get(equation.outvars[0])
    if output is None:
        return PlacedOperation(None, [])
    need, fill, reading = output, 0.0, None
    if output is not FULL and equation.primitive.name in PADDING:
        need, fill = _need(equation, output), PADDING[equation.primitive.name]
        rows, columns = need.size.tolist()
        reading = Reading(Box(Span(0, rows), Span(0, columns)), pads=((0, 0), (0, 0)))
    views = [_view(atom, changed, need=need, fill=fill) for atom in equation.invars]
    parts = tuple(placed and placed.view for placed in views)
    return PlacedOperation(Operation(parts, output is not FULL, reading), views)


def _need(equation: Equation, output: Rectangles) -> Rectangles:
    """What a window operation reads for its output, in the map and in its padding."""
    windows = windows_of(equation)
    assert windows is not None  # or no rule had applied
    sizes, strides, padding = np.array(windows).T
    return Rectangles((output.size - 1) * strides + sizes, output.starts * strides - padding)


def _view(
    atom: Atom, changed: Changed, *, need: Rectangles | Full, fill: float = 0.0
) -> PlacedView | None:
    """How an input is read, None where nothing or all of it changes or it is what is needed."""
    rectangle = look_up(changed, atom)
    if not isinstance(rectangle, Rectangles):
        return None
    size, starts = rectangle
    if need is FULL:
        return PlacedView(FULL, np.stack([starts] * 3, 1))
    if (size == need.size).all() and (starts == need.starts).all():
        return None
    lengths, ends = _lengths(atom), need.starts + need.size
    low, high = np.maximum(-need.starts.min(0), 0), np.maximum(ends.max(0) - lengths, 0)
    begin = np.minimum(starts, need.starts)
    hull = (np.maximum(starts + size, ends) - begin).max(0)
    begin = np.minimum(begin, lengths + high - hull)
    whole = (hull == need.size).all() and (begin == need.starts).all()
    view = View(
        pads=_pairs(low, high),
        fill=fill,
        hull=tuple(hull.tolist()),
        need=None if whole else tuple(need.size.tolist()),
    )
    return PlacedView(view, np.stack([starts, begin, need.starts], 1) + low)


def _pairs(low: np.ndarray, high: np.ndarray) -> Pads:
    rows, columns = zip(low.tolist(), high.tolist(), strict=True)
    return rows, columns


def _pad(clean: Array, view: View | Full) -> Array:
    """A clean map with as much padding as the view reads."""
    if view is FULL or not any(map(any, view.pads)):
        return clean
    rest = ((0, 0),) * (clean.ndim - 3)
    return jnp.pad(clean, ((0, 0), *view.pads, *rest), constant_values=view.fill)
