"""The images of a run: what sources name, read when their turn comes; and drawn scenes.

Listing opens no image, so that a million take seconds.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from gcpatch.data import archives, braces, images, lists, scenes
from gcpatch.data.folders import find_files
from gcpatch.data.images import ImageError
from gcpatch.data.listing import Entry, Hint, LeftOut, image_id, real_folder
from gcpatch.data.packed import remote, tables


class Picture(NamedTuple):
    """An image as the network takes it.

    Attributes:
        pixels: of its first frame.
        sha256: of its file.
        mask: where its object is, if that is known.
        several: whether its file has more frames or pages.
    """

    pixels: UInt8[np.ndarray, "size size 3"]
    sha256: str
    mask: Bool[np.ndarray, "size size"] | None = None
    several: bool = False


class Item(NamedTuple):
    """An image to attack.

    Attributes:
        id: its name in the run.
        source: where it is from.
        read: how to read it; raises `ImageError`.
        target: the class that it shall be taken for, or a rule, if it has its own.
        label: its true class, if that is known.
        listed: the manifest and line that name it, or nothing.
        hint: its true class by folder or sidecar, if it has one; `hints.labelled` makes it a label.
    """

    id: str
    source: str
    read: Callable[[], Picture]
    target: str | None = None
    label: str | None = None
    listed: str = ""
    hint: Hint | None = None

    def blame(self, error: Exception) -> str:
        """Why this image has no result."""
        return f"{self.listed}: {error}" if self.listed else str(error)

    def of_several(self) -> str:
        """What to say, once, of a picture that is `several`."""
        return f"{self.source!r} has several frames or pages; of such files the first is taken"

    def digest(self) -> str:
        """The picture's SHA-256; of a file without decoding it. Raises as `read` does."""
        return self.read.digest() if isinstance(self.read, _Reader) else self.read().sha256


class Found(NamedTuple):
    """Images, and sentences on what a person should know of how they were found."""

    items: list[Item]
    notes: list[str]


@dataclass(slots=True)
class _Reader:
    """Reads an image: a whole file or, of an archive, `length` bytes from `start` on."""

    source: str
    size: int
    resize_mode: str
    resize: int | None
    interpolation: str
    path: str
    start: int
    length: int | None
    read: Callable[[], bytes] | None = None

    def __call__(self) -> Picture:
        data = self._data()
        pixels = images.decode(
            data, self.source, self.size, self.resize_mode, self.resize, self.interpolation
        )
        several = images.several_frames(data)
        return Picture(pixels, hashlib.sha256(data).hexdigest(), several=several)

    def digest(self) -> str:
        return hashlib.sha256(self._data()).hexdigest()

    def _data(self) -> bytes:
        if self.read is not None:
            return self.read()
        place = () if self.length is None else (self.start, self.length)
        data = images.read_bytes(self.path, *place)
        if self.length is not None and len(data) < self.length:
            raise ImageError(f"{self.source!r} is cut short since it was listed; run this again.")
        return data


def find(
    sources: Sequence[str | Path],
    size: int,
    resize_mode: str,
    without: Path | None = None,
    *,
    resize: int | None = None,
    interpolation: str = "bilinear",
) -> Found:
    """The images that `sources` name, each once, to be read as `images.read_image` does.

    A source is what `folders.find_files` takes, or by its suffix

    - a manifest: `.csv` with a header, or `.jsonl` with an object in each line. `path` is relative
      to the manifest's folder, and may go on into an archive; `target` and `label` are a
      class by name, number or WordNet ID (`target` also a rule), and may be missing or empty;
      other columns are passed over.
    - `.tar`, whose members are read in place, or `.tar.gz` and `.tgz`, as `archives.members` says.
    - `.parquet` and `.arrow`, or a folder of such files without image files, as
      `datasets.save_to_disk` writes: `tables.entries`.
    - an address, `s3://bucket/photos/`, of images or folders of images: `remote.entries`.

    Each may have brace lists (`braces.expand`).

    First come manifests in their own order and archives sorted by name, one source after the
    other, then all else sorted. An image that is named twice has its first place; only where
    manifests give it different classes it is refused. Whether files exist and classes are known
    shows when their turn comes.

    Args:
        sources: as above.
        size: of the pictures, in pixels.
        resize_mode: one of `images.RESIZE_MODES`.
        without: a folder of which nothing is taken: where the output goes.
        resize, interpolation: as of `images.decode`.

    Raises:
        ImageError: a source cannot be read, is malformed or has no images; the message names it
            and the line.
    """
    real, left = cache(real_folder), LeftOut()

    @cache
    def members(archive: str) -> dict[str, Entry]:
        return archives.members(archive, real(os.path.dirname(archive)), left)

    listers: dict[str, Callable[[str], list[Entry]]] = {
        ".csv": lambda source: list(lists.entries(source, real, members)),
        ".jsonl": lambda source: list(lists.entries(source, real, members)),
        ".tar": lambda source: list(members(source).values()),
        ".parquet": lambda source: list(tables.entries(source, source, real)),
        ".arrow": lambda source: list(tables.entries(source, source, real)),
    }
    plain: list[str] = []
    found: dict[str, Entry] = {}
    for source in (name for text in sources for name in braces.expand(str(text))):
        if remote.ADDRESS.match(source):
            for entry in remote.entries(source, left):
                _add(found, entry)
            continue
        lister = listers.get(_suffix(source))
        if os.path.isdir(source) and (found_tables := tables.files(source)):
            for table in found_tables:
                for entry in tables.entries(table, source, real):
                    _add(found, entry)
            continue
        if archives.COMPRESSED.search(source):
            raise ImageError(f"{source!r} is compressed; decompress it to a plain .tar first.")
        if lister is None:
            plain.append(source)
        elif os.path.isdir(source):
            raise ImageError(f"{source!r} is a folder; write '{source}/' to search it for images.")
        elif entries := lister(source):
            for entry in entries:
                _add(found, entry)
        else:
            raise ImageError(f"{source!r} names no image; check what it holds.")
    if not sources:
        raise ImageError("No images were named; name at least one file, folder or glob pattern.")
    for entry in find_files(plain, real, left, without):
        found.setdefault(entry.identity, entry)
    if not found:
        raise ImageError(
            f"All images lie in what gcpatch wrote: {min(left.folders)!r}; name others."
        )
    items = [
        Item(
            image_id(identity),
            entry.source,
            _Reader(
                entry.source,
                size,
                resize_mode,
                resize,
                interpolation,
                entry.path,
                entry.start,
                entry.length,
                entry.read,
            ),
            entry.target,
            entry.label,
            entry.listed,
            entry.hint,
        )
        for identity, entry in found.items()
    ]
    return Found(items, list(left.notes()))


def _suffix(source: str) -> str:
    """What decides how a source is listed."""
    return ".tar" if archives.GZIPPED.search(source) else os.path.splitext(source)[1].lower()


def _add(found: dict[str, Entry], entry: Entry) -> None:
    """Gives an entry its place, or a manifest's classes to the one that is there."""
    first = found.setdefault(entry.identity, entry)
    if entry.listed and not first.listed:  # an archive's, which has no classes of its own
        found[entry.identity] = entry
    elif entry.listed and (first.target, first.label) != (entry.target, entry.label):
        raise ImageError(
            f"{entry.listed}: {entry.source!r} has another target or label than in "
            f"{first.listed}; keep one of the lines."
        )


def from_scenes(seed: int, count: int, size: int) -> list[Item]:
    """The first scenes of a seed."""

    def read(index: int) -> Picture:
        scene = scenes.draw_batch(seed, 1, size=size, start=index)
        pixels = np.rint(np.asarray(scene.image[0]) * 255).astype(np.uint8)
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        return Picture(pixels, digest, np.asarray(scene.mask[0]))

    return [
        Item(f"scene-{seed}-{i:04d}", f"scene {i} of seed {seed}", partial(read, i))
        for i in range(count)
    ]
