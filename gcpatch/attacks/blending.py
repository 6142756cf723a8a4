"""Where a patch lies, and how it enters an image (paper, eq. 4)."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from gcpatch.attacks.regions import Placement

ArrayLike = Array | np.ndarray


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


def overlay(
    image: Float[ArrayLike, "h w 3"], noise: Float[ArrayLike, "r c 3"], place: Placement
) -> Float[Array, "h w 3"]:
    """The image with a perturbation in its place (paper, eq. 4).

    `noise` are pixels; where the place has a bound, what is added to each.
    """
    corner = jnp.asarray(place.corner)
    tile = cut(image, corner, (noise.shape[0], noise.shape[1]))
    if place.bound is None:
        return paste(image, blend(tile, noise, place.ratio), corner)
    return paste(image, jnp.clip(tile + noise, 0, 1), corner)


def _start(corner: Int[ArrayLike, "2"]) -> tuple[Array, Array, Array]:
    corner = jnp.asarray(corner)
    return corner[0], corner[1], jnp.zeros((), corner.dtype)


def coverage(
    cells: tuple[int, ...],
    image_size: tuple[int, ...],
    corner: Int[ArrayLike, "2"] | tuple[int, int],
    shape: tuple[int, ...],
    ratio: Float[ArrayLike, ""] | Float[ArrayLike, "r c 1"] | float = 1.0,
) -> Float[Array, "h2 w2"]:
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


def with_rings(coverage: Float[ArrayLike, "h w"], rings: int = 1) -> Float[Array, "h w"]:
    """1 in each cell that a patch covers any of, and in those within `rings` cells of one.

    Heat that has only moved aside lies in the first ring. Without rings the coverage itself.
    """
    coverage = jnp.asarray(coverage)
    if not rings:
        return coverage
    side = 2 * rings + 1
    touched = (coverage > 0).astype(coverage.dtype)
    return lax.reduce_window(touched, 0.0, lax.max, (side, side), (1, 1), "SAME")
