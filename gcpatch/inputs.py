"""Where images come from: files, folders, globs, manifests, tar archives; and drawn scenes.

Listing opens no image, so that a million take seconds; an image is read when its turn comes.
"""

import csv
import hashlib
import json
import os
import posixpath
import re
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from gcpatch import images, scenes
from gcpatch.images import ImageError

COMPRESSED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|z)|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
HIDDEN = re.compile(r"(^|/)\.[^./]")  # also the companions that macOS packs: ._picture.jpg


class Picture(NamedTuple):
    """An image as the network takes it, its digest, and its object where that is known."""

    pixels: UInt8[np.ndarray, "size size 3"]
    sha256: str
    mask: Bool[np.ndarray, "size size"] | None = None


class Item(NamedTuple):
    """An image to attack.

    Attributes:
        id: its name in the run.
        source: where it is from.
        read: how to read it; raises `ImageError`.
        target: the class that it shall be taken for, or a rule, if it has its own.
        label: its true class, if that is known.
        listed: the manifest and line that name it, or nothing.
    """

    id: str
    source: str
    read: Callable[[], Picture]
    target: str | None = None
    label: str | None = None
    listed: str = ""

    def blame(self, error: Exception) -> str:
        """Why this image has no result."""
        return f"{self.listed}: {error}" if self.listed else str(error)


@dataclass(slots=True)
class _Reader:
    """Reads an image: a whole file or, of an archive, `length` bytes from `start` on."""

    source: str
    size: int
    resize_mode: str
    path: str
    start: int = 0
    length: int = -1

    def __call__(self) -> Picture:
        data = images.read_bytes(self.path, self.start, self.length)
        if len(data) < self.length:
            raise ImageError(f"{self.source!r} is cut short since it was listed; run this again.")
        pixels = images.decode(data, self.source, self.size, self.resize_mode)
        return Picture(pixels, hashlib.sha256(data).hexdigest())


def find(sources: Sequence[str | Path], size: int, resize_mode: str) -> list[Item]:
    """The images that `sources` name, each once, to be read as `images.read_image` does.

    A source is what `images.find_images` takes, or by its suffix

    - a manifest: `.csv` with a header, or `.jsonl` with an object in each line. `path` is relative
      to the manifest's folder; `target` and `label` are a class by name or number (`target` also
      a rule), and may be missing or empty; other columns are passed over.
    - `.tar`, whose members are read in place. Those that are no files, have no suffix of an image
      or have hidden names are passed over; of members of one name the last counts.

    First come manifests in their own order and archives sorted by name, one source after the
    other, then all else sorted. An image that is named twice has its first place; only where
    manifests give it different classes it is refused. Whether files exist and classes are known
    shows when their turn comes.

    Raises:
        ImageError: a source cannot be read, is malformed or has no images; the message names it
            and the line.
    """
    plain: list[str] = []
    found: dict[str, Item] = {}
    for source in map(str, sources):
        suffix = os.path.splitext(source)[1].lower()
        if COMPRESSED.search(source):
            raise ImageError(f"{source!r} is compressed; decompress it to a plain .tar first.")
        if suffix not in LISTERS:
            plain.append(source)
            continue
        if os.path.isdir(source):
            raise ImageError(f"{source!r} is a folder; write '{source}/' to search it for images.")
        listed = list(LISTERS[suffix](source, size, resize_mode))
        for key, item in listed:
            first = found.setdefault(key, item)
            if (first.target, first.label) != (item.target, item.label):
                raise ImageError(
                    f"{item.listed}: {item.source!r} has another target or label than in "
                    f"{first.listed}; keep one of the lines."
                )
        if not listed:
            raise ImageError(f"{source!r} names no image; check what it holds.")
    for path in map(str, images.find_images(plain) if plain or not sources else ()):
        found.setdefault(
            os.path.abspath(path), Item("", path, _Reader(path, size, resize_mode, path))
        )
    identities = images.image_ids(list(found))
    return [
        item._replace(id=identity)
        for identity, item in zip(identities, found.values(), strict=True)
    ]


def _manifest(source: str, size: int, resize_mode: str) -> Iterator[tuple[str, Item]]:
    folder = os.path.dirname(source)
    whole = os.path.abspath(folder)
    rows = _csv if source.lower().endswith(".csv") else _jsonl
    with images.opened(source) as file:
        for number, row in rows(source, _lines(source, file)):
            listed = f"{source}, line {number}"
            path, target, label = (row.get(name) for name in ("path", "target", "label"))
            if not isinstance(path, str) or not path:
                raise ImageError(
                    f"{listed}: path is {path!r}; give a file's name or delete the line."
                )
            where = os.path.join(folder, path)
            yield os.path.normpath(os.path.join(whole, path)), Item(
                "", where, _Reader(where, size, resize_mode, where),
                _class(listed, "target", target), _class(listed, "label", label), listed,
            )  # fmt: skip


def _class(listed: str, name: str, value: Any) -> str | None:
    if type(value) not in (str, int, type(None)):
        raise ImageError(f"{listed}: {name} is {value!r}; give a class by name or number.")
    return None if value is None else sys.intern(str(value).strip()) or None


def _lines(source: str, file: BufferedReader) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        try:
            yield line.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ImageError(
                f"{source}, line {number}: this is not UTF-8; save it as UTF-8."
            ) from None


def _csv(source: str, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row's line number and columns."""
    rows = csv.reader(lines, strict=True, skipinitialspace=True)
    header: list[str] = []
    number = 0
    try:
        for row in rows:
            if row and not header:
                header = [name.strip().casefold() for name in row]
                if "path" not in header:
                    raise ImageError(
                        f"{source}, line {rows.line_num}: there is no column path among "
                        f"{', '.join(header)}; add it to the header."
                    )
            elif row and len(row) != len(header):
                raise ImageError(
                    f"{source}, line {rows.line_num}: {len(row)} fields under a header of "
                    f"{len(header)}; put fields with commas in double quotes."
                )
            elif row:
                yield rows.line_num, dict(zip(header, row, strict=True))
            number = rows.line_num
    except csv.Error as error:
        raise ImageError(
            f"{source}, line {number + 1}: this is no CSV ({error}); mend it."
        ) from None


def _jsonl(source: str, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each object's line number, and the object."""
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise ImageError(f"{source}, line {number}: this is no JSON object; mend or delete it.")
        yield number, row


def _archive(source: str, size: int, resize_mode: str) -> Iterator[tuple[str, Item]]:
    members: dict[str, tuple[int, int]] = {}
    with images.opened(source) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while member := archive.next():
                    archive.members.clear()  # type: ignore[attr-defined]  # a kilobyte each
                    name = posixpath.normpath(member.name)
                    if member.size < 0 or member.issparse():
                        raise tarfile.ReadError(f"{name!r} is sparse or of negative size")
                    image = name.lower().endswith(images.SUFFIXES) and not HIDDEN.search(name)
                    if image and member.isreg():
                        members[name] = member.offset_data, member.size
                file.seek(archive.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile lets it pass
                    raise tarfile.ReadError("the end is missing")
        except (tarfile.TarError, OverflowError) as error:
            raise ImageError(
                f"{source!r} is no whole tar archive ({error}); fetch or pack it again."
            ) from None
    whole = os.path.abspath(source)
    for name in sorted(members, key=lambda name: name.split("/")):
        where = f"{source}:{name}"
        yield (
            f"{whole}/{name}",
            Item("", where, _Reader(where, size, resize_mode, source, *members[name])),
        )


LISTERS = {".csv": _manifest, ".jsonl": _manifest, ".tar": _archive}


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
