"""Where a patch lies, and how it enters an image (paper, eq. 4)."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from gcpatch.errors import UserError

ArrayLike = Array | np.ndarray

CORNERS = ("top-right", "top-left", "bottom-left", "bottom-right")


class PatchError(UserError):
    """A patch that cannot be: its size, ratio or position is out of range."""


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


def cut(image: Float[ArrayLike, "h w 3"], corner: Int[ArrayLike, "2"], size: int):
    """The square `[size, size, 3]` whose top left pixel is `corner`."""
    return lax.dynamic_slice(jnp.asarray(image), _start(corner), (size, size, 3))


def paste(
    image: Float[ArrayLike, "h w 3"], tile: Float[ArrayLike, "s s 3"], corner: Int[ArrayLike, "2"]
) -> Float[Array, "h w 3"]:
    """The image with a tile laid over it; every other pixel is untouched, bit for bit."""
    return lax.dynamic_update_slice(jnp.asarray(image), jnp.asarray(tile), _start(corner))


def blend(
    tile: Float[ArrayLike, "s s 3"],
    noise: Float[ArrayLike, "s s 3"],
    ratio: Float[ArrayLike, ""] | float,
) -> Float[Array, "s s 3"]:
    """(1 - P) * image + P * noise on the patch's pixels, kept in [0, 1] (paper, eq. 4)."""
    return jnp.clip((1 - ratio) * jnp.asarray(tile) + ratio * jnp.asarray(noise), 0, 1)


def _start(corner: Int[ArrayLike, "2"]) -> tuple[Array, Array, Array]:
    corner = jnp.asarray(corner)
    return corner[0], corner[1], jnp.zeros((), corner.dtype)


def coverage(
    cells: tuple[int, ...], image_size: tuple[int, ...], corner: Int[ArrayLike, "2"], size: int
) -> Float[Array, "h2 w2"]:
    """The share of each cell of a map that the patch covers, in [0, 1].

    Args:
        cells: height and width of the map, whose cells tile the image.
        image_size: height and width of the image.
        corner: (row, column) of the patch's top left pixel.
        size: the patch's side in pixels.
    """
    rows, columns = (
        jnp.clip(
            jnp.minimum(start + size, (jnp.arange(count) + 1) * (length / count))
            - jnp.maximum(start, jnp.arange(count) * (length / count)),
            0,
        )
        / (length / count)
        for count, length, start in zip(cells, image_size, corner, strict=True)
    )
    return jnp.outer(rows, columns)
