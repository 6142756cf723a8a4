"""Perturbations that are no square patch: a frame, any mask, or the whole image within a bound."""

import hashlib
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from gcpatch.data import images
from gcpatch.errors import UserError

CORNERS = ("top-right", "top-left", "bottom-left", "bottom-right")


class PatchError(UserError):
    """A patch that cannot be: its size, ratio or position is out of range."""


class Placement(NamedTuple):
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

    def place(self, height: int, width: int) -> Placement:
        """The patch in an image of this size; PatchError where it does not lie inside."""
        return Placement(self.corner(height, width), (self.size, self.size), self.ratio)


@dataclass(frozen=True)
class Frame:
    """A frame along the image's border.

    Attributes:
        width: in pixels.
        ratio: the share of the noise in the blend, P in eq. 4, in (0, 1].
    """

    width: int = 16
    ratio: float = 1.0

    def place(self, height: int, width: int) -> Placement:
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

    def place(self, height: int, width: int) -> Placement:
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

    def place(self, height: int, width: int) -> Placement:
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


def _whole(inside: Float[np.ndarray, "h w"], ratio: float) -> Placement:
    if not 0 < ratio <= 1:
        raise PatchError(f"the ratio is {ratio}; it must be over 0 and at most 1")
    return Placement((0, 0), inside.shape, (ratio * inside)[..., None].astype(np.float32))
