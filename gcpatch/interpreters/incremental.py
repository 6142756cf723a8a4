"""Exact re-evaluation of only what a changing rectangle of the image can reach.

A patch changes few pixels, a convolution spreads a change by a few pixels more, and everything
beyond keeps the value that it has for the clean image. `Incremental` is an interpreter of a
network's jaxpr that makes use of this: it evaluates the network once for the clean image and keeps
what lies around the growing rectangle (`precompute`), and then computes the rectangle alone
(`run`), for as many patches as wanted. Values and gradients are those of the full evaluation. How
the rectangle grows is told in `rectangles.py`.

With a margin the rectangle stops growing near the patch, and what it would have changed beyond
keeps the value that it has for the image that was given to `precompute`, which may have a patch
already: for the patch in that image values are exact, for another the better the more alike. What
lies around it is renewed from what another program, without a margin, computes of a patch
(`precompute_within`), at a fraction of what a whole image costs.

What a program needs to know of a rectangle at compile time is its shape and that of its frame, not
its place: `Incremental` holds the shapes, and the places are data. Rectangles of one shape class,
such as all those away from the border by a multiple of the network's strides, share a program.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jaxtyping import Array, Float, Int

from gcpatch.interpreters.jaxpr import Equation, bind, evaluate
from gcpatch.interpreters.rectangles import FULL, Box, Extent, Full, Reading, Span, plan, windows_of
from gcpatch.networks import lowering
from gcpatch.networks.network import ArrayLike

# ---- programs some of whose values change inside rectangles

Part = TypeVar("Part")  # how an input is put together, from its rectangle and the clean map


@dataclass(frozen=True)
class Operation(Generic[Part]):
    """What becomes of an equation some of whose inputs change, wherever the rectangles lie.

    Attributes:
        parts: how each input is put together, None where it is taken as it is.
        inside: whether the output is a rectangle, or else the whole map.
        reading: of a window operation inside, what it reads of its first input.
    """

    parts: tuple[Part | None, ...]
    inside: bool
    reading: Reading | None = None


Apply: TypeAlias = Callable[[Operation, Equation, list[Any]], list[Any]]


@dataclass(frozen=True)
class Program(Generic[Part]):
    """A function of an image of which only a rectangle changes.

    Attributes:
        jaxpr: the function, of the leaves of its parameters and a batch of one image.
        operations: what becomes of each equation, None where nothing changes.
        output: how the output is put together, None where it is taken as it is.
    """

    jaxpr: core.ClosedJaxpr
    operations: tuple[Operation[Part] | None, ...]
    output: Part | None

    def evaluate(
        self,
        params: Any,
        image: Array,
        *,
        complete: Callable[[Array, Part], Array],
        apply: Apply,
    ) -> Array:
        """The function of an image or of a tile.

        Args:
            params: the function's parameters.
            image: the image, or the tile alone.
            complete: called in turn for each input that has a part.
            apply: an equation's outputs where something changes.
        """
        operations = iter(self.operations)

        def put_together(value: Any, part: Part | None) -> Any:
            return value if part is None else complete(value, part)

        def bind_operation(equation: Equation, values: list[Any]) -> list[Any]:
            operation = next(operations)
            if operation is None:
                return bind(equation, values)
            return apply(operation, equation, list(map(put_together, values, operation.parts)))

        inputs = [*jax.tree.leaves(params), image[None]]
        return put_together(evaluate(self.jaxpr, inputs, bind_operation)[0], self.output)[0]


def on_whole_maps(operation: Operation, equation: Equation, values: list[Any]) -> list[Any]:
    """An equation's outputs for a whole image."""
    if equation.primitive.name == "conv_general_dilated" and windows_of(equation):
        return [_convolved(equation, *values, padding=equation.params["padding"])]
    return bind(equation, values)


def on_rectangles(operation: Operation, equation: Equation, values: list[Any]) -> list[Any]:
    """An equation's outputs for a tile."""
    params, reading = equation.params, operation.reading
    if not operation.inside:
        return on_whole_maps(operation, equation, values)
    match equation.primitive.name:
        case "conv_general_dilated" if reading is not None:
            part = _cut(values[0], reading.part)
            output = _convolved(equation, part, values[1], padding=reading.pads)
        case "reduce_window_max" | "reduce_window_sum" if reading is not None:
            largest = equation.primitive.name == "reduce_window_max"
            output = (lowering.max_pool if largest else lowering.sum_pool)(
                _cut(values[0], reading.part),
                size=params["window_dimensions"][1:3],
                strides=params["window_strides"][1:3],
                padding=reading.pads,
            )
        case "pad" if reading is not None:
            output = jnp.pad(_cut(values[0], reading.part), ((0, 0), *reading.pads, (0, 0)))
        case "custom_jvp_call":
            output = jax.nn.relu(*values)
        case "broadcast_in_dim":
            shape = (*values[0].shape[:3], *params["shape"][3:])
            output = lax.broadcast_in_dim(values[0], shape, params["broadcast_dimensions"])
        case "reshape":
            output = values[0].reshape(*values[0].shape[:3], *params["new_sizes"][3:])
        case "slice":
            ends = zip(params["start_indices"][3:], params["limit_indices"][3:], strict=True)
            steps = (params["strides"] or (1,) * values[0].ndim)[3:]
            parts = [slice(*end, step) for end, step in zip(ends, steps, strict=True)]
            output = values[0][:, :, :, *parts]
        case _:
            return bind(equation, values)
    return [output]


def _convolved(equation: Equation, inputs: Array, kernel: Array, *, padding: Any) -> Array:
    """A convolution with an equation's settings, in the form that is fast on the platform."""
    return lowering.conv(
        inputs,
        kernel,
        strides=equation.params["window_strides"],
        padding=padding,
        feature_group_count=equation.params["feature_group_count"],
        precision=equation.params["precision"],
        rhs_dilation=equation.params["rhs_dilation"],
    )


def start(origin: Int[Array, "2"], rank: int = 4) -> Int[Array, " rank"]:
    """Where a rectangle of a map `[1, h, w, ...]` begins, for dynamic slices."""
    return jnp.pad(origin, (1, rank - 3))


def _cut(value: Array, box: Box) -> Array:
    return value[:, slice(*box.rows), slice(*box.columns)]


# ---- one square, anywhere in its shape class


class Hull(NamedTuple):
    """A part of a map of which a rectangle changes; the rest of it is the rectangle's frame.

    Attributes:
        size: rows and columns.
        inner: the rectangle, counted from the part's origin.
    """

    size: tuple[int, int]
    inner: Box


class Frame(NamedTuple):
    """What is kept of a clean map where a hull is put together: what lies around the rectangle."""

    above: Array
    below: Array
    left: Array
    right: Array


class Whole(NamedTuple):
    """What is kept of a clean map where all of it is put together: itself, and the place."""

    clean: Array
    origin: Array


Memory: TypeAlias = list[Frame | Whole]  # for each input that is put together, in turn


class Precomputed(NamedTuple):
    """What an image gives: the function's value, and what `Incremental.run` needs."""

    output: Array
    memory: Memory


@dataclass(frozen=True)
class Incremental(Program[Hull | Full]):
    """A function of an image, prepared for changes of a square; `incremental` makes it.

    Two of them are equal, and share a compiled program, where only the square's place differs.

    Attributes:
        exact: whether it follows all that the square changes; False where a margin cuts it.
    """

    exact: bool = True

    def precompute(
        self, params: Any, image: Float[Array, "h w c"], places: Int[ArrayLike, "n 2"]
    ) -> Precomputed:
        """Evaluates the function for an image and keeps what `run` needs."""
        origins = iter(jnp.asarray(places))
        memory: Memory = []

        def keep(value: Array, part: Hull | Full) -> Array:
            memory.append(_keep(value, part, next(origins)))
            return value

        output = self.evaluate(params, image, complete=keep, apply=on_whole_maps)
        return Precomputed(output, memory)

    def run(self, params: Any, memory: Memory, tile: Float[Array, "s s c"]) -> Array:
        """The function of that image with this tile in the square's place."""
        kept = iter(memory)

        def complete(value: Array, part: Hull | Full) -> Array:
            return _surround(value, next(kept))

        return self.evaluate(params, tile, complete=complete, apply=on_rectangles)

    def precompute_within(
        self,
        wide: "Placed",
        params: Any,
        memory: Memory,
        tile: Float[Array, "s s c"],
        places: Int[ArrayLike, "n 2"],
    ) -> Precomputed:
        """As `precompute` for an image with a tile in the square's place, at the cost of a `run`.

        Args:
            wide: the same function and square without a margin, inside whose rectangles all of
                this one's lie.
            params: the function's parameters.
            memory: of the image without the tile, from `wide`.
            tile: for the square's place.
            places: of this program's parts.
        """
        kept, found = iter(memory), list[Frame | Whole]()
        parts = zip(self.parts, jnp.asarray(places), jnp.asarray(wide.places), strict=True)

        def complete(value: Array, part: Hull | Full) -> Array:
            value = _surround(value, next(kept))
            mine, place, origin = next(parts)
            found.append(_keep(value, mine, place if part is FULL else place - origin))
            return value

        output = wide.program.evaluate(params, tile, complete=complete, apply=on_rectangles)
        return Precomputed(output, found)

    @property
    def parts(self) -> list[Hull | Full]:
        """Of each input that is put together, and of the output, how, in turn."""
        inputs = [part for each in self.operations if each for part in each.parts]
        return [part for part in (*inputs, self.output) if part is not None]


class Placed(NamedTuple):
    """An evaluation, the same for all places of one shape class, and the place of each part."""

    program: Incremental
    places: Int[ArrayLike, "n 2"]


def incremental(
    jaxpr: core.ClosedJaxpr, corner: tuple[int, int], size: int, margin: int | None = None
) -> Placed:
    """Prepares a function for changes of one square of its image.

    Args:
        jaxpr: the function, from `gcpatch.interpreters.jaxpr.trace`.
        corner: row and column of the square's top left pixel.
        size: the square's side in pixels.
        margin: how many cells around the square's own may change in each map, None for no limit.

    Returns:
        The evaluation, and the places for its `precompute`.
    """
    square = Box(*(Span(low, low + size) for low in corner))
    found = plan(jaxpr.jaxpr, square, margin)
    exact = margin is None or found == plan(jaxpr.jaxpr, square)
    changes, output = found
    operations: list[Operation[Hull | Full] | None] = []
    places: list[tuple[int, int]] = []
    for change in changes:
        if change is None:
            operations.append(None)
            continue
        parts = tuple(_part(extent, change.hull) for extent in change.inputs)
        operations.append(Operation(parts, change.output is not FULL, change.reading))
        places += [
            extent.origin if change.hull is FULL else change.hull.origin
            for extent in change.inputs
            if isinstance(extent, Box)
        ]
    places += [output.origin] if isinstance(output, Box) else []
    program = Incremental(jaxpr, tuple(operations), _part(output, FULL), exact)
    return Placed(program, np.asarray(places, np.int32).reshape(-1, 2))


def _part(changed: Extent | None, hull: Extent) -> Hull | Full | None:
    """How an input is put together; not at all where nothing of it changes, or everything."""
    if not isinstance(changed, Box):
        return None
    return FULL if hull is FULL else Hull(hull.size, changed.seen_from(hull.origin))


def _keep(clean: Array, part: Hull | Full, origin: Array) -> Frame | Whole:
    """What of a clean map is needed beside the tile."""
    if part is FULL:
        return Whole(clean, origin)
    hull = lax.dynamic_slice(clean, start(origin, clean.ndim), (1, *part.size, *clean.shape[3:]))
    (top, bottom), (left, right) = part.inner
    middle = hull[:, top:bottom]
    return Frame(
        above=hull[:, :top],
        below=hull[:, bottom:],
        left=middle[:, :, :left],
        right=middle[:, :, right:],
    )


def _surround(tile: Array, kept: Frame | Whole) -> Array:
    """The tile in its frame, or in its place in the whole map."""
    if isinstance(kept, Whole):
        return lax.dynamic_update_slice(kept.clean, tile, start(kept.origin, tile.ndim))
    middle = jnp.concatenate([kept.left, tile, kept.right], 2)
    return jnp.concatenate([kept.above, middle, kept.below], 1)
