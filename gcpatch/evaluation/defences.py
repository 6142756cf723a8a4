"""What an image may go through before the network, to undo an attack: pure functions of pixels.

Guo et al., "Countering adversarial images using input transformations", ICLR 2018. Each takes and
gives RGB `[h, w, 3]` in [0, 1]; all but `jpeg` are functions of JAX, to vmap, jit and grad, and can
be passed to `universal(..., through=...)` for an attack that knows of the defence.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gcpatch.errors import UserError
from gcpatch.networks.network import ArrayLike

Image = Float[ArrayLike, "h w 3"]

# Annex K of the JPEG standard (ITU-T T.81): quantisation of luma and of chroma at quality 50.
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_TO_YCC = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168735892, -0.331264108, 0.5],
        [0.5, -0.418687589, -0.081312411],
    ]
)
_WAVES = np.sqrt(np.where(np.arange(8) == 0, 1, 2) / 8)[:, None] * np.cos(
    np.outer(np.arange(8), 2 * np.arange(8) + 1) * np.pi / 16
)


def jpeg(image: Float[np.ndarray, "h w 3"], quality: int) -> Float[np.ndarray, "h w 3"]:
    """The image after encoding and decoding as JPEG by OpenCV, on the host: for verdicts."""
    levels = np.rint(image[..., ::-1] * 255).astype(np.uint8)
    encoded = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return decoded[..., ::-1].astype(np.float32) / 255


def soft_jpeg(image: Image, quality: int) -> Float[Array, "h w 3"]:
    """JPEG with a derivative: rounding counts as x - (round(x) - x)^3 (Shin and Song, 2017).

    Colours halved in resolution, blocks of 8 x 8, no entropy coding, which loses nothing.
    """
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    tables = [np.clip((table * scale + 50) // 100, 1, 255) for table in (_LUMA, _CHROMA)]
    height, width = image.shape[:2]
    padding = ((0, -height % 16), (0, -width % 16), (0, 0))
    planes = jnp.moveaxis(jnp.pad(image * 255, padding, "edge") @ _TO_YCC.T, -1, 0)
    luma = _quantised(planes[0] - 128, tables[0]) + 128
    tall, wide = luma.shape
    small = planes[1:].reshape(2, tall // 2, 2, wide // 2, 2).mean((2, 4))
    colours = [jax.image.resize(_quantised(p, tables[1]), luma.shape, "linear") for p in small]
    found = jnp.stack([luma, *colours], -1) @ np.linalg.inv(_TO_YCC).T
    return jnp.clip(found[:height, :width] / 255, 0, 1).astype(image.dtype)


def _quantised(plane: Float[Array, "h w"], table: np.ndarray) -> Float[Array, "h w"]:
    height, width = plane.shape
    blocks = plane.reshape(height // 8, 8, width // 8, 8).swapaxes(1, 2)
    waves = _WAVES @ blocks @ _WAVES.T / table
    nearest = jax.lax.stop_gradient(jnp.round(waves))
    blocks = _WAVES.T @ ((nearest + (waves - nearest) ** 3) * table) @ _WAVES
    return blocks.swapaxes(1, 2).reshape(height, width)


def blur(image: Image, sigma: float) -> Image:
    """The image through a Gaussian of `sigma` pixels, cut at three sigma, its border repeated."""
    reach = max(1, int(np.ceil(3 * sigma)))
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    weights = weights / weights.sum()
    for axis in (0, 1):
        wide = [(reach, reach) if i == axis else (0, 0) for i in range(3)]
        padded, length = jnp.pad(image, wide, "edge"), image.shape[axis]
        parts = (
            weight * jax.lax.slice_in_dim(padded, i, i + length, axis=axis)
            for i, weight in enumerate(weights.tolist())
        )
        image = sum(parts, jnp.zeros_like(image))
    return image


def bit_depth(image: Image, bits: int) -> Image:
    """The image in 2^bits levels a colour; its derivative is that of the image itself."""
    levels = 2**bits - 1
    return image + jax.lax.stop_gradient(jnp.round(image * levels) / levels - image)


def resize_crop(image: Image, key: PRNGKeyArray, least: float) -> Image:
    """A random square, of `least` to 1 of the image's sides, scaled to the whole (bilinear)."""
    sides, places = jax.random.split(key)
    share = jax.random.uniform(sides, (), minval=least)
    start = (1 - share) * jax.random.uniform(places, (2,)) * jnp.asarray(image.shape[:2])
    scale = jnp.repeat(1 / share, 2)
    return jax.image.scale_and_translate(
        image, image.shape, (0, 1), scale, -start * scale, "linear", antialias=False
    )


class Defence(NamedTuple):
    """A defence with its strength.

    Attributes:
        verdict: of an image and a key, as it is measured.
        attack: of an image and a key, with a derivative, for attacks that know of it.
        moves: whether it moves pixels, so that the patch lies elsewhere.
    """

    verdict: Callable[[Image, PRNGKeyArray], Image]
    attack: Callable[[Image, PRNGKeyArray], Image]
    moves: bool = False


def _pure(change: Callable[..., Image], strength: float | int) -> Defence:
    both = jax.jit(lambda image, key: change(image, strength))
    return Defence(both, both)


def _jpeg(quality: float) -> Defence:
    return Defence(
        lambda image, key: jpeg(np.asarray(image), int(quality)),
        lambda image, key: soft_jpeg(image, int(quality)),
    )


def _resize_crop(percent: float) -> Defence:
    both = jax.jit(partial(resize_crop, least=percent / 100))
    return Defence(both, both, moves=True)


# Kinds, each with the range of its strength.
KINDS: dict[str, tuple[Callable[[float], Defence], float, float]] = {
    "jpeg": (_jpeg, 1, 100),  # quality
    "blur": (lambda sigma: _pure(blur, sigma), 0.1, 20),  # sigma in pixels
    "bits": (lambda bits: _pure(bit_depth, int(bits)), 1, 8),  # a colour
    "crop": (_resize_crop, 10, 100),  # the smallest square's side, in percent of the image's
}


def defence(name: str) -> Defence:
    """The defence `KIND-STRENGTH`: `jpeg-75` (quality), `blur-1` (sigma in pixels), `bits-3`, or
    `crop-80` (a random square of 80 to 100 % of the sides).

    Raises:
        UserError: there is none of this name, or its strength is out of range.
    """
    kind, _, strength = name.partition("-")
    if kind not in KINDS:
        choices = ", ".join(f"{kind}-STRENGTH" for kind in KINDS)
        raise UserError(f"there is no defence {name!r}; choose one of {choices}")
    make, least, most = KINDS[kind]
    try:
        value = float(strength)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise UserError(f"{name!r} has no strength from {least} to {most}, such as {kind}-{most:g}")
    return make(value)
