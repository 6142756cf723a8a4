"""Exact re-evaluation of only what a window can reach, for a window at many places of an image.

`gcpatch.incremental` makes a program for each shape class of places, and a window that slides over
an image meets the borders of the deep maps in nearly as many ways as it has places. Here all places
share one program: at each map the rectangle has the size of the largest, moved where it would leave
the map. Such a rectangle holds what changes and something more, which is computed to be what it
was. Padding is part of the clean maps, so that windows never leave them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jaxtyping import Array, Float, Int

from gcpatch.interpreters.incremental import (
    FULL,
    Memory,
    Operation,
    Span,
    apply,
    evaluate_changes,
    plain,
    plan,
    start,
)
from gcpatch.interpreters.incremental import window as window_of

WINDOWED = {"conv_general_dilated": 0.0, "reduce_window_max": -np.inf}  # and their padding


class Rectangles(NamedTuple):
    """A rectangle at each place: one size (rows, columns), and where it begins, `[place, 2]`."""

    size: np.ndarray
    starts: np.ndarray


class View(NamedTuple):
    """How an operation reads an input that changes inside a rectangle.

    Attributes:
        pads: of the clean map, (low, high) for both axes, filled with `fill`.
        hull: the size of the part that is put together of clean map and rectangle, or `FULL`.
        need: the size of the part of the hull that the operation reads, None for all of it.
    """

    pads: tuple[tuple[int, int], ...]
    fill: float
    hull: Any
    need: tuple[int, int] | None


Starts = Int[Array, "views 3 2"]  # of each view's rectangle, hull and need, in the padded map


@dataclass(frozen=True)
class Sliding:
    """A function of an image, prepared for a window at many places; `slide` makes it.

    Attributes:
        jaxpr: the function, of the leaves of its parameters and a batch of one image.
        operations: what becomes of each equation, with a `View` or None for each input in `hulls`.
    """

    jaxpr: core.ClosedJaxpr
    operations: tuple[Operation | None, ...]

    def precompute(self, params: Any, image: Float[Array, "h w c"]) -> tuple[Array, Memory]:
        """The function of the clean image, and what `run` needs of it, the same for all places."""
        memory: Memory = []

        def complete(operation, values):
            memory.append([_keep(*part) for part in zip(values, operation.hulls, strict=True)])
            return values

        inputs = [*jax.tree.leaves(params), image[None]]
        output = evaluate_changes(self.jaxpr, self.operations, inputs, complete, plain)
        return output, memory

    def run(
        self, params: Any, memory: Memory, tile: Float[Array, "s s c"], starts: Starts
    ) -> Array:
        """The function of the clean image with this tile in one place, given by its starts."""
        kept, places = iter(memory), iter(starts)

        def complete(operation, values):
            parts = zip(values, operation.hulls, next(kept), strict=True)
            return [_complete(*part, places) for part in parts]

        inputs = [*jax.tree.leaves(params), tile[None]]
        return evaluate_changes(self.jaxpr, self.operations, inputs, complete, apply)


def slide(
    jaxpr: core.ClosedJaxpr, rows: Sequence[int], columns: Sequence[int], size: int
) -> tuple[Sliding, Int[np.ndarray, "rows views 3"], Int[np.ndarray, "columns views 3"]]:
    """Prepares a function for a square window at each of `rows` x `columns`.

    Args:
        jaxpr: the function, from `gcpatch.interpreters.jaxpr.trace`.
        rows: of the window's top left pixel.
        columns: likewise.
        size: the window's side in pixels.

    Returns:
        The evaluation; and for each row and each column where its views start. Stacked along a last
        axis, those of one row and one column are a place for `run`.
    """
    count = max(len(rows), len(columns))  # a row's rectangles are the same in all columns
    corners = [
        (rows[min(i, len(rows) - 1)], columns[min(i, len(columns) - 1)]) for i in range(count)
    ]
    squares = [(Span(i, i + size), Span(j, j + size)) for i, j in corners]
    plans = zip(*(plan(jaxpr.jaxpr, square) for square in squares), strict=True)
    changed: dict[Any, Any] = {
        jaxpr.jaxpr.invars[-1]: Rectangles(np.array((size, size)), np.array(corners))
    }
    operations: list[Operation | None] = []
    starts: list[np.ndarray] = []

    def views(variables: Sequence[Any], need: Any, fill: float = 0.0) -> tuple[View | None, ...]:
        found: list[View | None] = []
        for variable in variables:
            box = None if isinstance(variable, core.Literal) else changed.get(variable)
            view = None
            if isinstance(box, Rectangles):
                view, places = _view(box, need, fill, np.array(variable.aval.shape[1:3]))
                starts.extend([] if view is None else [places])
            found.append(view)
        return tuple(found)

    for equation, found in zip(jaxpr.jaxpr.eqns, plans, strict=False):
        if found[0] is None:
            operations.append(None)
            continue
        boxes = [operation.output for operation in found]
        output: Any = FULL
        need: Any = FULL
        fill, read = 0.0, None
        if not any(box is FULL for box in boxes):
            output = need = _common(boxes, equation.outvars[0].aval.shape[1:3])
            if equation.primitive.name in WINDOWED:
                need, fill = _need(equation, output), WINDOWED[equation.primitive.name]
                read = tuple(Span(0, int(length)) for length in need.size)
        kind = FULL if output is FULL else "inside"
        seen = views(equation.invars, need, fill)
        operations.append(Operation((), seen, kind, ((0, 0), (0, 0)), read))
        changed |= dict.fromkeys(equation.outvars, output)
    operations.append(Operation((), views(jaxpr.jaxpr.outvars, FULL), FULL))
    table = np.stack(starts, 1).astype(np.int32)  # [place, view, 3, 2]
    sliding = Sliding(jaxpr, tuple(operations))
    return sliding, table[: len(rows), ..., 0], table[: len(columns), ..., 1]


def _common(boxes: Sequence[Any], lengths: Sequence[int]) -> Rectangles:
    """Rectangles of one size inside a map around one box at each place."""
    low, high = np.moveaxis(np.array(boxes), -1, 0)
    size = (high - low).max(0)
    return Rectangles(size, np.minimum(low, np.array(lengths) - size))


def _need(equation: Any, output: Rectangles) -> Rectangles:
    """What a window operation reads for its output, in the map and in its padding."""
    found = window_of(equation)
    assert found is not None  # or no rule had fitted
    strides, low = np.array(found.strides), np.array(found.padding)[:, 0]
    size = (output.size - 1) * strides + np.array(found.size)
    return Rectangles(size, output.starts * strides - low)


def _view(
    box: Rectangles, need: Any, fill: float, lengths: np.ndarray
) -> tuple[View | None, np.ndarray]:
    """The view, None where the rectangle is what is needed; and its starts `[place, 3, 2]`."""
    if need is FULL:
        return View(((0, 0), (0, 0)), fill, FULL, None), np.stack([box.starts] * 3, 1)
    if (box.size == need.size).all() and (box.starts == need.starts).all():
        return None, box.starts
    ends = need.starts + need.size
    low, high = np.maximum(-need.starts.min(0), 0), np.maximum(ends.max(0) - lengths, 0)
    begin = np.minimum(box.starts, need.starts)
    hull = (np.maximum(box.starts + box.size, ends) - begin).max(0)
    begin = np.minimum(begin, lengths + high - hull)
    whole = (hull == need.size).all() and (begin == need.starts).all()
    pads = tuple(zip(low.tolist(), high.tolist(), strict=True))
    view = View(pads, fill, tuple(hull.tolist()), None if whole else tuple(need.size.tolist()))
    return view, np.stack([box.starts, begin, need.starts], 1) + low


def _keep(value: Any, view: View | None) -> Any:
    """What of a clean input an operation needs beside the rectangle."""
    if view is None:
        return None
    pads = ((0, 0), *view.pads, (0, 0))
    return jnp.pad(value, pads, constant_values=view.fill) if any(map(any, pads)) else value


def _complete(value: Any, view: View | None, clean: Any, places: Iterator[Array]) -> Any:
    """The input of an operation, from the rectangle and the clean map."""
    if view is None:
        return value
    box, hull, need = next(places)
    if view.hull is FULL:
        return lax.dynamic_update_slice(clean, value, start(box))
    channels = clean.shape[-1]
    whole = lax.dynamic_slice(clean, start(hull), (1, *view.hull, channels))
    whole = lax.dynamic_update_slice(whole, value, start(box - hull))
    if view.need is None:
        return whole
    return lax.dynamic_slice(whole, start(need - hull), (1, *view.need, channels))
