"""Perturbations that are no square patch: a frame, any mask, or the whole image within a bound."""

import hashlib
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from gcpatch.data import images
from gcpatch.errors import UserError
from gcpatch.settings import SHARE, Range, at_least, check, documented, setting

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


def _position(text: str) -> str | tuple[int, int]:
    """A position as the command line has it: a corner's name, or ROW,COLUMN."""
    row, comma, column = text.partition(",")
    if not comma:
        return text
    try:
        return int(row), int(column)
    except ValueError:
        raise PatchError(f"the position {text!r} is not ROW,COLUMN in whole numbers") from None


def _ratio() -> Any:
    return setting(
        1.0,
        "the share of the noise in the blend, P in eq. 4",
        value="P",
        parse=float,
        range=SHARE,
    )


@documented
@dataclass(frozen=True)
class Patch:
    """A square patch.

    Raises:
        PatchError: a value is out of range.
    """

    size: int = setting(
        64, "the patch's side in pixels", value="PIXELS", parse=int, range=at_least(1)
    )
    ratio: float = _ratio()
    position: str | tuple[int, int] = setting(
        "top-right",
        "a corner of the image, or (row, column) of the patch's top left pixel",
        value="CORNER|ROW,COL",
        parse=_position,
        registry="position",
    )

    def __post_init__(self):
        check(self, PatchError)

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


@documented
@dataclass(frozen=True)
class Frame:
    """A frame along the image's border.

    Raises:
        PatchError: a value is out of range.
    """

    width: int = setting(
        16,
        "the width in pixels of a frame along the image's border",
        value="PIXELS",
        parse=int,
        range=at_least(1),
    )
    ratio: float = _ratio()

    def __post_init__(self):
        check(self, PatchError)

    def place(self, height: int, width: int) -> Placement:
        """The frame in an image of this size; PatchError where it leaves nothing of it."""
        most = (min(height, width) - 1) // 2
        if self.width > most:
            raise PatchError(
                f"the frame is {self.width} pixels wide; "
                f"in an image of {height}x{width} it must be 1 to {most}"
            )
        inside = np.ones((height, width))
        inside[self.width : -self.width, self.width : -self.width] = 0
        return _whole(inside, self.ratio)


@documented
@dataclass(frozen=True)
class Mask:
    """Any region, as a picture: noise where it is white.

    The picture is scaled to the image; its grey level times its opacity, 0 to 1, times `ratio` is
    P in eq. 4.

    Raises:
        PatchError: a value is out of range.
    """

    file: str = setting(
        MISSING, "a picture of any region: noise where it is white", value="FILE.png"
    )
    ratio: float = _ratio()

    def __post_init__(self):
        check(self, PatchError)

    def place(self, height: int, width: int) -> Placement:
        """The mask over an image of this size.

        Raises:
            ImageError: the file cannot be read.
            PatchError: the mask is black or clear.
        """
        grey = images.read_mask(self.file)
        inside = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA) / 255.0
        if not inside.any():
            raise PatchError(
                f"{self.file}: the mask is all black or clear; white is where noise goes"
            )
        return _whole(inside, self.ratio)


@documented
@dataclass(frozen=True)
class Bounded:
    """The whole image, no pixel further from the clean one than a bound (L-infinity).

    Raises:
        PatchError: a value is out of range.
    """

    levels: int = setting(
        8,
        "the most that any pixel of the image may change, in 8-bit levels; 8 is the usual 8/255",
        value="LEVELS",
        parse=int,
        range=Range("1 to 255", lambda value: 1 <= value <= 255),
    )

    def __post_init__(self):
        check(self, PatchError)

    def place(self, height: int, width: int) -> Placement:
        """The whole image."""
        return _whole(np.ones((height, width)), 1.0)._replace(bound=self.levels / 255)


Region = Patch | Frame | Mask | Bounded


# Every region by its name in `run.json`, which is that of its option too.
KINDS: dict[str, type[Region]] = {"patch": Patch, "frame": Frame, "mask": Mask, "linf": Bounded}


def describe(region: Region) -> dict[str, Any]:
    """A region's kind and settings, as `run.json` holds them; of a mask also its file's digest."""
    kind = next(name for name, kind in KINDS.items() if isinstance(region, kind))
    described = {"kind": kind} | asdict(region)
    if isinstance(region, Mask):
        described["sha256"] = hashlib.sha256(images.read_bytes(region.file)).hexdigest()
    return described


def kind_of(described: dict[str, Any]) -> str:
    """The kind in a description; where gcpatch 0.1 wrote none, the one that has these settings.

    Raises:
        KeyError: no region has them.
    """
    if "kind" in described:
        return described["kind"]
    settings = {name: {each.name for each in fields(kind)} for name, kind in KINDS.items()}
    return {frozenset(names): name for name, names in settings.items()}[
        frozenset(described) - {"sha256"}
    ]


def region(described: dict[str, Any]) -> Region:
    """The region of which `describe` gave this, also from JSON, where tuples are lists.

    Raises:
        KeyError, TypeError: it describes no region.
        PatchError: a setting is out of range.
    """
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in described.items()
        if name not in ("kind", "sha256")
    }
    return KINDS[kind_of(described)](**given)


def _whole(inside: Float[np.ndarray, "h w"], ratio: float) -> Placement:
    return Placement((0, 0), inside.shape, (ratio * inside)[..., None].astype(np.float32))
