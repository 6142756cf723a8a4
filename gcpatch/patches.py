"""Where a patch lies, and how it enters an image (paper, eq. 4)."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from gcpatch.errors import UserError

ArrayLike = Array | np.ndarray

CORNERS = ("top-right", "top-left", "bottom-left", "bottom-right")


class PatchError(UserError):
    """A patch that cannot be: its size, ratio or position is out of range."""


class Place(NamedTuple):
    """A perturbation's rectangle of pixels, the tile, and what it may do to each of them.

    Attributes:
        corner: (row, column) of its top left pixel in the image.
        shape: its height and width.
        ratio: the share of the noise in the blend, P in eq. 4: one number, or one a pixel.
        bound: the most that a pixel in [0, 1] may change; None if it may take any value.
    """

    corner: tuple[int, int]
    shape: tuple[int, int]
    ratio: float | Float[np.ndarray, "rows columns 1"]
    bound: float | None = None


@dataclass(frozen=True)
class Patch:
    """A square patch.

    Attributes:
        size: its side in pixels.
        ratio: the share of the patch in the blend, P in eq. 4, in (0, 1].
        position: a corner of the image (`CORNERS`), or (row, column) of the patch's top left pixel.

    Raises:
        PatchError: a value is out of range.
    """

    size: int = 64
    ratio: float = 1.0
    position: str | tuple[int, int] = "top-right"

    def __post_init__(self):
        if self.size < 1:
            raise PatchError(f"the patch's size is {self.size}; it must be at least 1 pixel")
        if not 0 < self.ratio <= 1:
            raise PatchError(f"the ratio is {self.ratio}; it must be over 0 and at most 1")
        if isinstance(self.position, str) and self.position not in CORNERS:
            raise PatchError(
                f"there is no position {self.position!r}; "
                f"choose one of {', '.join(CORNERS)}, or ROW,COLUMN"
            )

    def corner(self, height: int, width: int) -> tuple[int, int]:
        """(row, column) of the patch's top left pixel in an image of this height and width.

        Raises:
            PatchError: the patch does not lie inside the image.
        """
        if isinstance(self.position, str):
            vertical, horizontal = self.position.split("-")
            row = 0 if vertical == "top" else height - self.size
            column = 0 if horizontal == "left" else width - self.size
        else:
            row, column = self.position
        if min(row, column) < 0 or row + self.size > height or column + self.size > width:
            raise PatchError(
                f"a patch of {self.size}x{self.size} at {self.position} "
                f"does not lie inside an image of {height}x{width}"
            )
        return row, column

    def place(self, height: int, width: int) -> Place:
        """The patch in an image of this size; PatchError where it does not lie inside."""
        return Place(self.corner(height, width), (self.size, self.size), self.ratio)


def cut(image: Float[ArrayLike, "h w 3"], corner: Int[ArrayLike, "2"], shape: tuple[int, int]):
    """The tile `[*shape, 3]` whose top left pixel is `corner`."""
    return lax.dynamic_slice(jnp.asarray(image), _start(corner), (*shape, 3))


def paste(
    image: Float[ArrayLike, "h w 3"], tile: Float[ArrayLike, "r c 3"], corner: Int[ArrayLike, "2"]
) -> Float[Array, "h w 3"]:
    """The image with a tile laid over it; every other pixel is untouched, bit for bit."""
    return lax.dynamic_update_slice(jnp.asarray(image), jnp.asarray(tile), _start(corner))


def blend(
    tile: Float[ArrayLike, "r c 3"],
    noise: Float[ArrayLike, "r c 3"],
    ratio: Float[ArrayLike, ""] | Float[ArrayLike, "r c 1"] | float,
) -> Float[Array, "r c 3"]:
    """(1 - P) * image + P * noise on the patch's pixels, kept in [0, 1] (paper, eq. 4)."""
    return jnp.clip((1 - ratio) * jnp.asarray(tile) + ratio * jnp.asarray(noise), 0, 1)


def _start(corner: Int[ArrayLike, "2"]) -> tuple[Array, Array, Array]:
    corner = jnp.asarray(corner)
    return corner[0], corner[1], jnp.zeros((), corner.dtype)


def coverage(
    cells: tuple[int, ...], image_size: tuple[int, ...],
    corner: Int[ArrayLike, "2"] | tuple[int, int], shape: tuple[int, ...],
    ratio: Float[ArrayLike, ""] | Float[ArrayLike, "r c 1"] | float = 1.0,
) -> Float[Array, "h2 w2"]:  # fmt: skip
    """The share of each cell of a map that the perturbation covers, in [0, 1].

    Args:
        cells: height and width of the map, whose cells tile the image.
        image_size: height and width of the image.
        corner: (row, column) of the tile's top left pixel.
        shape: the tile's height and width.
        ratio: the noise's share in each pixel; those without any are not covered.
    """
    corner = jnp.asarray(corner)
    if jnp.ndim(ratio):  # pixel by pixel, as lines of one pixel
        starts = (first + jnp.arange(length) for first, length in zip(corner, shape, strict=True))
        rows, columns = map(_shares, cells, image_size, starts, (1, 1))
        return rows @ (jnp.asarray(ratio)[..., 0] > 0) @ columns.T
    return jnp.outer(*map(_shares, cells, image_size, corner, shape))


def _shares(cells: int, length: int, start: Int[Array, "*n"], size: int):
    """The share of each cell that lines of `size` pixels cover, `[cells, *n]`."""
    side = length / cells
    edges = (jnp.arange(cells) * side).reshape(-1, *[1] * start.ndim)
    overlap = jnp.minimum(start + size, edges + side) - jnp.maximum(start, edges)
    return jnp.clip(overlap, 0) / side
