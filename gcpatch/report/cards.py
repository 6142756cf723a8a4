"""Pictures of some of a run's images, small enough for a page that brings them along."""

import base64
import math
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote
from zipfile import BadZipFile

import cv2
import numpy as np

from gcpatch.data.images import read_png
from gcpatch.report.figures import COLORMAPS, JET, panel_tiles, recoloured
from gcpatch.report.records import Note, Run
from gcpatch.report.table import status

Value = TypeVar("Value")

CARDS, PIXELS = 60, 256  # most cards on a page, and the sides of their pictures
UNREADABLE = OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error


def folder_of(run: Run, row: int) -> Path:
    """The folder of a record's files; `stored` says whether it is one."""
    return run.folders[row] / "images" / str(run.records[row].get("id"))


def stored(run: Run) -> list[int]:
    """The rows of the images that have a folder of files, in `images/` itself and nowhere else."""
    names: dict[Path, set] = {folder: set() for folder in run.folders}
    for folder, found in names.items():
        with suppress(OSError), os.scandir(folder / "images") as entries:
            found |= {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
    return [
        row
        for row, (record, folder) in enumerate(zip(run.records, run.folders, strict=True))
        if not record.get("error") and str(record.get("id")) in names[folder]
    ]


def links(run: Run, rows: Sequence[int], page: Path) -> dict[str, Any]:
    """How a page in the folder `page` reaches the panels of the images `rows`, as stored.

    Returns:
        `folders`, relative addresses that end with a slash, and `of`, for each record the place of
        its own in there or None.
    """
    homes = {folder: n for n, folder in enumerate(dict.fromkeys(run.folders))}
    of: list[int | None] = [None] * len(run.records)
    for row in rows:
        if _is_own(folder_of(run, row) / "panel.png"):
            of[row] = homes[run.folders[row]]
    paths = [os.path.relpath(folder / "images", page) for folder in homes]
    return {"folders": [quote(path, errors="replace") + "/" for path in paths], "of": of}


def colormap_of(run: Run) -> str:
    """In which of `COLORMAPS` the maps of a run are drawn."""
    settings = run.settings.get("settings")
    name = settings.get("colormap") if isinstance(settings, dict) else None
    return name if isinstance(name, str) and name in COLORMAPS else JET


def spread(rows: list[Value], most: int) -> list[Value]:
    """At most so many of a list, evenly, so that every part of a campaign is seen."""
    return rows if len(rows) <= most else [rows[n * len(rows) // most] for n in range(most)]


def chosen(run: Run, rows: Sequence[int]) -> list[int]:
    """At most `CARDS` of the rows, those of a rare outcome before those of a frequent one."""
    groups: dict[str, list[int]] = {}
    for row in rows:
        groups.setdefault(status(run.records[row]), []).append(row)
    found: list[int] = []
    for left, group in zip(
        range(len(groups), 0, -1), sorted(groups.values(), key=len), strict=True
    ):
        found += spread(group, (CARDS - len(found)) // left)
    return sorted(found)


def pictures(folder: Path, colormap: str, wanted: str | None = None) -> list[str | None]:
    """Clean image, its map, attacked image, its map, as data: addresses; what is not there is None.

    Args:
        folder: of one image's files; a panel that cannot be read is left out.
        colormap: in which its maps are drawn.
        wanted: in which they shall be shown, if in another.

    Raises:
        OSError: there is no attacked image that could be read (or another of `UNREADABLE`).
    """
    tiles: list[Any] | None = None
    if _is_own(folder / "panel.png"):
        tiles = panel_tiles(read_png(folder / "panel.png"))
    if tiles is None:
        tiles = [
            None,
            None,
            *(_read(folder / f"{name}.png") for name in ("adversarial", "overlay")),
        ]
        if tiles[2] is None:
            raise FileNotFoundError(folder / "adversarial.png")
    if wanted not in (None, colormap):
        tiles = [None if tile is None else _thinned(tile) for tile in tiles]
        for image, shown in ((0, 1), (2, 3)):
            if tiles[image] is not None and tiles[shown] is not None:
                tiles[shown] = recoloured(tiles[shown], tiles[image], colormap, wanted)
    return [None if tile is None else small(tile) for tile in tiles]


def cards(run: Run, rows: Sequence[int], note: Note, wanted: str | None = None) -> list[dict]:
    """Some records with pictures: their rows in the table, and the pictures."""
    found: list[dict] = []
    unread, alone = [], []
    for row in chosen(run, rows):
        try:
            four = pictures(folder_of(run, row), colormap_of(run), wanted)
        except UNREADABLE:
            unread.append(row)
            continue
        found.append({"row": row, "pictures": four})
        if four[0] is None:
            alone.append(row)
    note_images(run, unread, "pictures that cannot be read", note)
    note_images(run, alone, "clean pictures, for want of a panel.png,", note)
    return found


def note_images(run: Run, rows: Sequence[int], what: str, note: Note) -> None:
    """Says of how many images something is left out, if of any."""
    if rows:
        images = "1 image" if len(rows) == 1 else f"{len(rows):,} images"
        note(f"{what} of {images} ({folder_of(run, rows[0])}{', ...' if len(rows) > 1 else ''})")


def _is_own(path):
    """Whether there is a file, and no link that could lead out of the run."""
    return path.is_file() and not path.is_symlink()


def _read(path):
    return read_png(path) if _is_own(path) else None


def _thinned(picture):
    """Every so many-th pixel, none of them mixed, so that at most `PIXELS` a side are left."""
    step = math.ceil(len(picture) / PIXELS)
    return picture[::step, ::step]


def small(picture: np.ndarray) -> str:
    """RGB [size, size, 3], shrunk by a whole number to at most 256 pixels, as a data: address."""
    factor = math.ceil(len(picture) / PIXELS)
    size = picture.shape[1] // factor, picture.shape[0] // factor
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
