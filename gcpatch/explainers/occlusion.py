"""Explanation of pixels by occlusion: what the score loses when a window is covered."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gcpatch.errors import UserError
from gcpatch.explainers.cam import Explainer
from gcpatch.explainers.scores import Score, logit
from gcpatch.interpreters.jaxpr import trace
from gcpatch.interpreters.sliding import Sliding, slide
from gcpatch.networks import Network
from gcpatch.networks.network import ArrayLike


def occlusion(
    network: Network, image: Float[ArrayLike, "h w 3"], label: Int[Array, ""] | int,
    *, window: int = 16, stride: int = 8, baseline: Float[ArrayLike, "3"] | float = 0.0,
    score: Score = logit,
) -> Float[Array, "h w"]:  # fmt: skip
    """Occlusion: s(x) - s(x with a window covered), at each pixel the mean of the windows over it.

    Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, section
    4.2; the mean over windows, and the default baseline, are captum's. Where the stride does not
    lead to the image's border the last windows lie flush with it (captum's are cut there).

    Of each occluded image only what the window reaches is computed, with the same result. Compiled
    for a row of windows at a time; inside a `jax.jit` of your own all rows make one large program.

    Args:
        network: the network to explain.
        image: RGB in [0, 1].
        label: the class c that is explained.
        window: the side of the square window in pixels.
        stride: pixels from one window to the next.
        baseline: the colour of the window; black (Zeiler and Fergus: grey).
        score: what of the logits is explained, such as `gcpatch.scores.margin`.

    Raises:
        UserError: the window does not fit into the image, or the stride leaves pixels out.
    """
    image = jnp.asarray(image)
    rows, columns = (_places(length, window, stride) for length in image.shape[:2])
    sliding, row_starts, column_starts = _sliding_of(network, image, rows, columns, window)
    logits, memory = _prepare(sliding, network, image)
    tile = jnp.broadcast_to(jnp.asarray(baseline, image.dtype), (window, window, 3))
    occluded = jnp.stack([
        _row(sliding, network, memory, tile, starts, column_starts) for starts in row_starts
    ])  # fmt: skip
    scores = jax.vmap(jax.vmap(lambda found: score(found, label)))(occluded)
    over = [
        np.stack([(np.arange(length) - place) // window == 0 for place in places])
        for length, places in zip(image.shape[:2], (rows, columns), strict=True)
    ]
    sums = jnp.einsum(
        "ij,ih,jw->hw", score(logits, label) - scores, *(jnp.asarray(o, image.dtype) for o in over),
        precision=jax.lax.Precision.HIGHEST,
    )  # fmt: skip
    return sums / np.outer(*(o.sum(0) for o in over))


METHODS: dict[str, Explainer] = {"occlusion": occlusion}


def _places(length: int, window: int, stride: int) -> tuple[int, ...]:
    """Where windows begin along one axis."""
    if not 1 <= window <= length:
        raise UserError(
            f"the window is {window} pixels; it must be 1 to {length}, the image's side"
        )
    if not 1 <= stride <= window:
        raise UserError(
            f"the stride is {stride} pixels; it must be 1 to {window}, the window's side"
        )
    return (*range(0, length - window, stride), length - window)


@partial(jax.jit, static_argnums=0)
def _prepare(sliding: Sliding, network, image):
    return sliding.precompute(network, image)


@partial(jax.jit, static_argnums=0)
def _row(sliding: Sliding, network, memory, tile, row, columns):
    """The logits of the image with each window of one row covered, `[columns, classes]`."""
    row = jnp.broadcast_to(row, columns.shape)
    places = jnp.stack([row, jnp.asarray(columns)], -1)
    return jax.vmap(sliding.run, (None, None, None, 0))(network, memory, tile, places)


def _sliding_of(network, image, rows, columns, window):
    leaves, structure = jax.tree.flatten(network)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return _slide(structure, shapes, image.shape, image.dtype, rows, columns, window)


@lru_cache(maxsize=64)
def _slide(structure, leaves, shape, dtype, rows, columns, window):
    network = jax.tree.unflatten(structure, leaves)
    jaxpr = trace(lambda network, images: network(images), network, shape=shape, dtype=dtype)
    return slide(jaxpr, rows=rows, columns=columns, size=window)
