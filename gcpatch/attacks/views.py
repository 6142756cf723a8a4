"""A patch as a camera may see it: anywhere, larger or smaller, turned, lighter or darker."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, PRNGKeyArray

from gcpatch.attacks.fields import ViewFields
from gcpatch.attacks.regions import PatchError
from gcpatch.settings import documented


class View(NamedTuple):
    """One placement of a patch in an image.

    Attributes:
        centre: (row, column) of the patch's centre, in pixels.
        scale: its side, relative to its own.
        angle: by which it is turned, counterclockwise, in radians.
        brightness: added to its pixels.
    """

    centre: Float[Array, "2"]
    scale: Float[Array, ""]
    angle: Float[Array, ""]
    brightness: Float[Array, ""]


@documented
@dataclass(frozen=True)
class Views(ViewFields):
    """The placements over which a patch is to work (Athalye et al., 2018: EOT).

    Each draw is uniform; the patch lies wholly inside the image, wherever it fits.

    Raises:
        PatchError: a value is out of range.
    """

    def __post_init__(self):
        if not 0 < self.scale[0] <= self.scale[1]:
            raise PatchError(f"the scale is {self.scale}; it must be (LEAST, MOST), both over 0")
        if not 0 <= self.degrees <= 180:
            raise PatchError(f"degrees is {self.degrees}; it must be 0 to 180")
        if not 0 <= self.brightness <= 1:
            raise PatchError(f"brightness is {self.brightness}; it must be 0 to 1")

    def draw(self, key: PRNGKeyArray, image_size: tuple[int, int], size: int) -> View:
        """A random view of a patch of `size` pixels; one too large for the image lies centred."""
        places, scales, angles, lights = jax.random.split(key, 4)
        scale = jax.random.uniform(scales, (), minval=self.scale[0], maxval=self.scale[1])
        angle = jnp.deg2rad(self.degrees) * jax.random.uniform(angles, (), minval=-1)
        reach = size * scale * (jnp.abs(jnp.sin(angle)) + jnp.abs(jnp.cos(angle))) / 2
        sides = jnp.asarray(image_size, jnp.float32)
        room = jnp.maximum(sides / 2 - reach, 0)
        centre = (sides - 1) / 2 + room * jax.random.uniform(places, (2,), minval=-1)
        light = self.brightness * jax.random.uniform(lights, (), minval=-1)
        return View(centre, scale, angle, light)


def apply_view(
    image: Float[Array, "h w 3"], noise: Float[Array, "s s 3"], ratio: Any, view: View
) -> tuple[Float[Array, "h w 3"], Float[Array, "h w 1"]]:
    """The image with a patch of this noise as the view has it, and where it lies (1 or 0).

    (1 - P) * image + P * noise where it lies (paper, eq. 4), the noise interpolated bilinearly;
    every other pixel is untouched. The derivative by the noise is that of the interpolation.
    """
    rows, columns = jnp.indices(image.shape[:2], jnp.float32)
    down, right = rows - view.centre[0], columns - view.centre[1]
    cosine, sine = jnp.cos(view.angle) / view.scale, jnp.sin(view.angle) / view.scale
    middle = (noise.shape[0] - 1) / 2
    at = middle + jnp.stack([cosine * down + sine * right, cosine * right - sine * down])
    inside = (jnp.abs(at - middle) <= noise.shape[0] / 2).all(0)[..., None]
    seen = jax.vmap(lambda channel: map_coordinates(channel, list(at), 1, "nearest"), -1, -1)(noise)
    blended = (1 - ratio) * image + ratio * jnp.clip(seen + view.brightness, 0, 1)
    return jnp.where(inside, blended, image), inside.astype(image.dtype)
