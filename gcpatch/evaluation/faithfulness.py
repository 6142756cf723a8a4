"""How faithful a map is to its network: what the class loses where the map says that it matters.

Each measure is a pure function `(network, image, label, heat, *, ...) -> scalar` of one image, to
vmap and jit; the images that it makes are one batch. A map of fewer cells than pixels is enlarged
bilinearly. Where pixels are equal, as where a map is zero, their order is drawn, by the same draw
for every map of a shape: an empty map is judged as a random one.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Bool, Float, Int

from gcpatch.explainers import checks
from gcpatch.explainers.checks import Label
from gcpatch.networks import Network
from gcpatch.networks.network import ArrayLike

STEPS = 28  # of deletion and insertion: one for each 1,792 pixels of 224 x 224
SHARES = tuple(tenth / 10 for tenth in range(1, 10))  # of the pixels, which ROAD removes
NOISE = 0.01  # ROAD's, in pixels
BLUR = 5.0  # sigma of insertion's first image, in pixels
TOLERANCE, ITERATIONS = 1e-4, 60  # of ROAD's linear system at each size: an error below its noise
COARSEST = 16  # pixels a side, where it is solved at once

Image = Float[Array, "h w 3"]
Heat = Float[ArrayLike, "h2 w2"]


class Faithfulness(NamedTuple):
    """How faithful maps are, a number an image, or one map is.

    Attributes:
        deletion: of `deletion`; the lower the better.
        insertion: of `insertion`; the higher the better.
        road: of `road`; the higher the better, 0 for a random map.
    """

    deletion: Float[ArrayLike, "*n"]
    insertion: Float[ArrayLike, "*n"]
    road: Float[ArrayLike, "*n"]


def faithfulness(
    network: Network,
    images: Float[ArrayLike, "n h w 3"],
    labels: Int[ArrayLike, " n"] | list[int | str],
    maps: Float[ArrayLike, "m h2 w2"],
) -> Faithfulness:
    """The three measures of maps of many images, by one program, an image at a time.

    An image takes 76 evaluations of the network.

    Args:
        network: the network that was explained.
        images: RGB in [0, 1].
        labels: the class of each image that was explained, by ID or name.
        maps: one for each image.

    Raises:
        UserError: the images are no floats in [0, 1], or the labels no classes, one for each, or
            there are not as many maps.
    """
    pixels = checks.images(images)
    known = checks.classes(network, labels, count=len(pixels), what="label")
    if np.ndim(maps) != 3 or len(maps) != len(pixels):
        raise checks.InputError(
            f"there are {len(pixels)} images; give as many maps [n, h, w], not {np.shape(maps)}"
        )
    found = [
        _all(network, image, jnp.asarray(label), jnp.asarray(heat))
        for image, label, heat in zip(pixels, known, maps, strict=True)
    ]
    return Faithfulness(*(np.asarray(column) for column in zip(*found, strict=True)))


@jax.jit
def _all(network: Network, image: Image, label: Int[Array, ""], heat: Heat) -> Faithfulness:
    return Faithfulness(
        *(measure(network, image, label, heat) for measure in (deletion, insertion, road))
    )


def deletion(
    network: Network,
    image: Float[ArrayLike, "h w 3"],
    label: Label,
    heat: Heat,
    *,
    steps: int = STEPS,
) -> Float[Array, ""]:
    """The area under the class's probability while pixels are deleted, those of most heat first.

    Petsiuk, Das and Saenko, "RISE", BMVC 2018, section 3.2 (there 224 steps). A deleted pixel is
    the mean colour, which the network takes for 0.

    Args:
        network: the network that was explained.
        image: RGB in [0, 1].
        label: the class that was explained, its ID or name.
        heat: the map.
        steps: in how many equal parts the pixels go; the area is the trapezoids'.
    """
    image = checks.image(image)
    mean = jnp.asarray(network.preprocessing.mean, image.dtype)
    return _area(network, image, jnp.broadcast_to(mean, image.shape), label, heat, steps)


def insertion(
    network: Network,
    image: Float[ArrayLike, "h w 3"],
    label: Label,
    heat: Heat,
    *,
    steps: int = STEPS,
) -> Float[Array, ""]:
    """The area under the class's probability while pixels come back, those of most heat first.

    As `deletion`, and from the same paper; it begins with the image blurred by a Gaussian of 5
    pixels, cut off at 5 pixels on either side, as the authors' code does.
    """
    image = checks.image(image)
    return _area(network, blurred(image), image, label, heat, steps)


def road(
    network: Network,
    image: Float[ArrayLike, "h w 3"],
    label: Label,
    heat: Heat,
    *,
    shares: tuple[float, ...] = SHARES,
    key: Array | None = None,
    noise: float = NOISE,
) -> Float[Array, ""]:
    """ROAD: how much more of the class is left where the least heat is removed than the most.

        mean over shares of (p(least relevant first) - p(most relevant first)) / 2

    Rong, Leemann et al., "A consistent and efficient evaluation strategy for attribution methods",
    ICML 2022: removed pixels are imputed (`imputed`), so that a mask's shape says little. The mean
    of both orders is that of pytorch-grad-cam's `ROADCombined`.

    Args:
        network: the network that was explained.
        image: RGB in [0, 1].
        label: the class that was explained, its ID or name.
        heat: the map.
        shares: of the pixels that are removed.
        key: of the noise; that of seed 0 if None.
        noise: its standard deviation, in pixels of [0, 1].
    """
    image = checks.image(image)
    height, width, _ = image.shape
    order = ranks(heat, (height, width))
    counts = jnp.round(jnp.asarray(shares) * order.size)[:, None, None]
    removed = jnp.concatenate([order >= order.size - counts, order < counts])
    keys = jax.random.split(jax.random.key(0) if key is None else key, len(removed))
    images = jax.vmap(partial(imputed, image, noise=noise))(removed, keys)
    odds = _probability(network, images, label)
    least, most = odds.reshape(2, -1).mean(-1)
    return (least - most) / 2


def ranks(heat: Heat, shape: tuple[int, int]) -> Int[Array, "h w"]:
    """The place of each pixel in the order of the heat: 0 where there is most.

    Args:
        heat: the map; what is not finite counts as its least.
        shape: height and width of the image.
    """
    heat = jnp.asarray(heat)
    heat = jnp.nan_to_num(heat, nan=-jnp.inf, posinf=jnp.inf, neginf=-jnp.inf)
    values = (
        jax.image.resize(heat, shape, "linear").ravel() if heat.shape != shape else heat.ravel()
    )
    drawn = jax.random.permutation(jax.random.key(0), values.size)
    order = jnp.lexsort((drawn, -values))
    return jnp.zeros_like(order).at[order].set(jnp.arange(order.size)).reshape(shape)


def blurred(image: Image) -> Image:
    """The image behind a Gaussian of 5 pixels and 11 x 11 taps, mirrored beyond its border."""
    reach = round(BLUR)
    taps = jnp.exp(-(jnp.arange(-reach, reach + 1) ** 2) / (2 * BLUR**2)).astype(image.dtype)
    taps /= taps.sum()
    for axis in (0, 1):
        wide = [(reach, reach) if axis == n else (0, 0) for n in range(3)]
        padded = jnp.pad(image, wide, "symmetric")
        views = [
            jax.lax.slice_in_dim(padded, start, start + image.shape[axis], axis=axis)
            for start in range(len(taps))
        ]
        image = sum(tap * view for tap, view in zip(taps, views, strict=True))
    return image


def imputed(
    image: Float[ArrayLike, "h w 3"],
    removed: Bool[ArrayLike, "h w"],
    key: Array | None = None,
    *,
    noise: float = NOISE,
) -> Image:
    """The image with its removed pixels as ROAD imputes them, by noisy linear imputation.

    Each is the mean of its eight neighbours in the image, weighted 2 beside it and 1 across, all at
    once (a linear system, solved by conjugate gradients), plus noise.

    Args:
        image: RGB in [0, 1].
        removed: `[h, w]`, True where a pixel is removed.
        key: of the noise; there is none if None.
        noise: its standard deviation.
    """
    image = checks.image(image)
    hole = jnp.asarray(removed)[..., None].astype(image.dtype)
    drawn = 0 if key is None else noise * jax.random.normal(key, image.shape, image.dtype)
    return jnp.where(hole > 0, _solved(image, hole) + drawn, image)


def _solved(image: Image, hole: Float[Array, "h w 1"]) -> Image:
    """The image with its hole filled, which begins from the same at half the size."""
    height, width, _ = image.shape
    kept = (1 - hole) * image
    if height % 2 or width % 2 or min(height, width) <= COARSEST:
        start = jnp.broadcast_to(kept.sum((0, 1)) / jnp.maximum((1 - hole).sum(), 1), image.shape)
    else:
        share, sums = _halved(1 - hole), _halved(kept)
        coarse = _solved(sums / jnp.maximum(share, 0.25), (share == 0).astype(image.dtype))
        start = jax.image.resize(coarse, image.shape, "linear")
    total = _neighbours(jnp.ones_like(hole))

    def apply(values):  # 0 outside of the hole
        return hole * (total * values - _neighbours(values))

    filled, _ = cg(
        apply, hole * _neighbours(kept), x0=hole * start, tol=TOLERANCE, maxiter=ITERATIONS
    )
    return kept + hole * filled


def _halved(values: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
    """The means of 2 x 2 pixels."""
    height, width, channels = values.shape
    return values.reshape(height // 2, 2, width // 2, 2, channels).mean((1, 3))


def _neighbours(values: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """The weighted sum of the eight neighbours, 0 beyond the border: [1 2 1] x [1 2 1] less 4."""
    found = values
    for axis in (0, 1):
        wide = [(1, 1) if axis == n else (0, 0) for n in range(3)]
        padded, length = jnp.pad(found, wide), values.shape[axis]
        before, here, after = (
            jax.lax.slice_in_dim(padded, start, start + length, axis=axis) for start in range(3)
        )
        found = before + 2 * here + after
    return (found - 4 * values) / 12


def _area(network, first, last, label, heat, steps) -> Float[Array, ""]:
    """The area under the probability from the image `first` to `last`, in parts by heat."""
    order = ranks(heat, (first.shape[0], first.shape[1]))
    counts = np.rint(np.linspace(0, order.size, steps + 1))[:, None, None, None]
    images = jnp.where(order[..., None] < counts, last, first)
    odds = _probability(network, images, label)
    return (odds[1:] + odds[:-1]).mean() / 2


def _probability(network: Network, images: Float[Array, "n h w 3"], label: Label):
    odds = jax.nn.softmax(network(images))
    return odds[:, checks.label(network, label)]
