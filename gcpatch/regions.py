"""Perturbations that are no square patch: a frame, any mask, or the whole image within a bound."""

import hashlib
from dataclasses import asdict, dataclass, fields
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from gcpatch import images
from gcpatch.patches import Patch, PatchError, Place


@dataclass(frozen=True)
class Frame:
    """A frame along the image's border.

    Attributes:
        width: in pixels.
        ratio: the share of the noise in the blend, P in eq. 4, in (0, 1].
    """

    width: int = 16
    ratio: float = 1.0

    def place(self, height: int, width: int) -> Place:
        """The frame in an image of this size; PatchError where width or ratio are out of range."""
        most = (min(height, width) - 1) // 2
        if not 1 <= self.width <= most:
            raise PatchError(
                f"the frame is {self.width} pixels wide; "
                f"in an image of {height}x{width} it must be 1 to {most}"
            )
        inside = np.ones((height, width))
        inside[self.width : -self.width, self.width : -self.width] = 0
        return _whole(inside, self.ratio)


@dataclass(frozen=True)
class Mask:
    """Any region, as a picture: noise where it is white.

    Attributes:
        file: a picture; its grey level times its opacity, 0 to 1, times `ratio` is P in eq. 4.
            It is scaled to the image.
        ratio: the share of the noise in the blend where the mask is white, in (0, 1].
    """

    file: str
    ratio: float = 1.0

    def place(self, height: int, width: int) -> Place:
        """The mask over an image of this size.

        Raises:
            ImageError: the file cannot be read.
            PatchError: the ratio is out of range, or the mask is black or clear.
        """
        grey = images.read_mask(self.file)
        inside = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA) / 255.0
        if not inside.any():
            raise PatchError(
                f"{self.file}: the mask is all black or clear; white is where noise goes"
            )
        return _whole(inside, self.ratio)


@dataclass(frozen=True)
class Bounded:
    """The whole image, no pixel further from the clean one than a bound (L-infinity).

    Attributes:
        levels: the bound in 8-bit levels, 1 to 255; 8 is the usual 8/255.
    """

    levels: int = 8

    def place(self, height: int, width: int) -> Place:
        """The whole image; PatchError where the bound is out of range."""
        if not 1 <= self.levels <= 255:
            raise PatchError(f"the bound is {self.levels} levels; it must be 1 to 255")
        return _whole(np.ones((height, width)), 1.0)._replace(bound=self.levels / 255)


Region = Patch | Frame | Mask | Bounded


def describe(region: Region) -> dict[str, Any]:
    """A region's settings, as a run's `run.json` holds them; of a mask also its file's digest."""
    if not isinstance(region, Mask):
        return asdict(region)
    return asdict(region) | {"sha256": hashlib.sha256(images.read_bytes(region.file)).hexdigest()}


def region(settings: dict[str, Any]) -> Region:
    """The region that has these settings, also from JSON, where tuples are lists.

    Raises:
        StopIteration: no region has them.
    """
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in settings.items()
        if name != "sha256"
    }
    kinds = (Patch, Frame, Mask, Bounded)
    return next(
        kind(**given) for kind in kinds if given.keys() == {field.name for field in fields(kind)}
    )


def _whole(inside: Float[np.ndarray, "h w"], ratio: float) -> Place:
    if not 0 < ratio <= 1:
        raise PatchError(f"the ratio is {ratio}; it must be over 0 and at most 1")
    return Place((0, 0), inside.shape, (ratio * inside)[..., None].astype(np.float32))
