"""Explanation of pixels by occlusion: what the score loses when a window is covered."""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gcpatch.errors import UserError
from gcpatch.explainers import checks
from gcpatch.explainers.cam import Explainer
from gcpatch.explainers.checks import Label
from gcpatch.explainers.scores import Score, logit
from gcpatch.interpreters.jaxpr import trace
from gcpatch.interpreters.sliding import Clean, Slid, Sliding, slide
from gcpatch.networks import Network
from gcpatch.networks.network import ArrayLike


def occlusion(
    network: Network,
    image: Float[ArrayLike, "h w 3"],
    label: Label,
    *,
    window: int = 16,
    stride: int = 8,
    baseline: Float[ArrayLike, "3"] | float = 0.0,
    score: Score = logit,
) -> Float[Array, "h w"]:
    """Occlusion: s(x) - s(x with a window covered), at each pixel the mean of the windows over it.

    Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, section
    4.2; the mean over windows, and the default baseline, are captum's. Where the stride does not
    lead to the image's border the last windows lie flush with it (captum's are cut there).

    Of each occluded image only what the window reaches is computed, with the same result. Compiled
    for a row of windows at a time; inside a `jax.jit` of your own all rows make one large program.

    Args:
        network: the network to explain.
        image: RGB in [0, 1].
        label: the class c that is explained, its ID or name.
        window: the side of the square window in pixels.
        stride: pixels from one window to the next.
        baseline: the colour of the window; black (Zeiler and Fergus: grey).
        score: what of the logits is explained, such as `gcpatch.scores.margin`.

    Raises:
        UserError: the window does not fit into the image, or the stride leaves pixels out.
    """
    image, label = checks.image(image), checks.label(network, label)
    windows = windows_over(network, image, window=window, stride=stride)
    tile = jnp.broadcast_to(jnp.asarray(baseline, image.dtype), (window, window, 3))
    occluded = jnp.stack([windows.covered(row, tile) for row in range(len(windows.rows))])
    scores = jax.vmap(jax.vmap(lambda logits: score(logits, label)))(occluded)
    over = [
        np.stack([(np.arange(length) - place) // window == 0 for place in places])
        for length, places in zip(image.shape[:2], (windows.rows, windows.columns), strict=True)
    ]
    sums = jnp.einsum(
        "ij,ih,jw->hw",
        score(windows.logits, label) - scores,
        *(jnp.asarray(covers, image.dtype) for covers in over),
        precision=jax.lax.Precision.HIGHEST,
    )
    return sums / np.outer(*(covers.sum(0) for covers in over))


METHODS: dict[str, Explainer] = {"occlusion": occlusion}


class Windows(NamedTuple):
    """A network and an image, prepared for one window after the other; `windows_over` makes it.

    Attributes:
        network: the network.
        rows: where windows begin, in pixels.
        columns: likewise; there is a window at each of `rows` x `columns`.
        logits: of the image as it is.
        memory: what the evaluation keeps of the image as it is.
        slid: the evaluation, and where its views start for each row and each column.
    """

    network: Network
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    logits: Float[Array, " classes"]
    memory: Clean
    slid: Slid

    def covered(self, row: int, tile: Float[Array, "s s 3"]) -> Float[Array, "columns classes"]:
        """The logits of the image with each window of one row covered.

        Args:
            row: an index of `rows`.
            tile: the pixels that cover a window, in [0, 1].
        """
        program, row_starts, column_starts = self.slid
        return _row(
            program,
            self.network,
            self.memory,
            tile=tile,
            row=row_starts[row],
            columns=column_starts,
        )


def windows_over(
    network: Network, image: Float[Array, "h w 3"], *, window: int, stride: int
) -> Windows:
    """Prepares a network and an image for covering windows of the image.

    Args:
        network: the network.
        image: RGB in [0, 1].
        window: the side of a window in pixels.
        stride: pixels from one window to the next.

    Raises:
        UserError: the window does not fit into the image, or the stride leaves pixels out.
    """
    rows, columns = (_places(length, window, stride) for length in image.shape[:2])
    leaves, structure = jax.tree.flatten(network)
    slid = _slide(
        structure,
        tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves),
        shape=image.shape,
        dtype=image.dtype,
        rows=rows,
        columns=columns,
        window=window,
    )
    logits, memory = _precompute(slid.program, network, image)
    return Windows(
        network=network,
        rows=rows,
        columns=columns,
        logits=logits,
        memory=memory,
        slid=slid,
    )


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
def _precompute(program: Sliding, network, image):
    return program.precompute(network, image)


@partial(jax.jit, static_argnums=0)
def _row(program: Sliding, network, memory, *, tile, row, columns):
    """The logits of the image with each window of one row covered, `[columns, classes]`."""
    row = jnp.broadcast_to(row, columns.shape)
    places = jnp.stack([row, jnp.asarray(columns)], -1)
    return jax.vmap(program.run, (None, None, None, 0))(network, memory, tile, places)


@lru_cache(maxsize=64)
def _slide(structure, leaves, *, shape, dtype, rows, columns, window) -> Slid:
    network = jax.tree.unflatten(structure, leaves)
    jaxpr = trace(lambda network, images: network(images), network, shape=shape, dtype=dtype)
    return slide(jaxpr, rows=rows, columns=columns, size=window)
