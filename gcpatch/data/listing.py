"""What a source names: entries, their identities and ids, and what is left out."""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

SHOWN = 8  # kinds of files in a note
NOUNS = ("file", "folder", "link", "device", "pipe")
DIGITS = 12  # of an id: one pair in 3e14 of images with one name would share them


class Hint(NamedTuple):
    """A true class by the folder or the sidecar that an image has.

    Attributes:
        origin: the folder or archive whose images are labelled so, all of them or none.
        name: the class, by name, number or WordNet ID.
    """

    origin: str
    name: str


class Entry(NamedTuple):
    """An image that a source names.

    Attributes:
        identity: where it is, whatever it was called: `locate` of its file, and its member's name.
        source: what the user calls it.
        path: the file that holds it.
        start: where it begins in the file.
        length: how many bytes it has; None if it is the whole file.
        target: its own target, if it has one.
        label: its true class, if its manifest says.
        listed: the manifest and line that name it, or nothing.
        hint: its true class by folder or sidecar, if it has one.
        read: gives its bytes, where they are no part of the file; raises `ImageError`.
    """

    identity: str
    source: str
    path: str
    start: int = 0
    length: int | None = None
    target: str | None = None
    label: str | None = None
    listed: str = ""
    hint: Hint | None = None
    read: Callable[[], bytes] | None = None


def real_folder(folder: str) -> str:
    """The one absolute path of a folder, without links; where there can be none, as it reads."""
    try:
        return os.path.realpath(folder)
    except (OSError, ValueError):  # too long, or with a zero byte
        return os.path.abspath(folder)


def raw(text: str) -> bytes:
    """A path as the bytes that the file system has, the same in every locale."""
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:  # no file's name, but a manifest's
        return text.encode("utf-8", "surrogatepass")


def native(text: str) -> str:
    """A name that a manifest or archive gives in UTF-8, as this locale spells paths."""
    try:
        return os.fsdecode(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return text


def image_id(identity: str) -> str:
    """The id of an image, which is also its folder's name: ASCII, at most 93 characters.

    It is the name without its suffix, made readable, and the first digits of the SHA-256 of where
    the image is (its absolute path without links, and its member's name). So it depends on
    nothing else in the list, on no locale and not on how the image was named, and images of one
    name in two folders, or of two suffixes, have two ids.
    """
    name = os.path.basename(raw(identity)).decode("utf-8", "ignore")
    stem = unicodedata.normalize("NFKD", name.rpartition(".")[0] or name)
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", stem.encode("ascii", "ignore").decode())
    digest = hashlib.sha256(raw(identity)).hexdigest()[:DIGITS]
    return "-".join(filter(None, (plain.strip("._-")[:80], digest)))


class LeftOut:
    """What sources hold and is not read, to be said once."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.folders: Counter[str] = Counter()

    def file(self, name: str, kind: str | None = None) -> None:
        """Counts a file or member, by its suffix if it has no other kind."""
        suffix = os.path.splitext(name)[1].lower()
        self.kinds[name] = kind or suffix or "without suffix"

    def notes(self) -> Iterator[str]:
        """A line on what was skipped, and one on folders that gcpatch wrote."""
        if self.kinds:
            counts = sorted(Counter(self.kinds.values()).items(), key=lambda kind: (-kind[1], kind))
            shown = [_many(count, kind) for kind, count in counts[:SHOWN]]
            if others := sum(count for _, count in counts[SHOWN:]):
                shown.append(f"{others} others")
            yield f"skipped {_many(len(self.kinds), 'file')}: {', '.join(shown)}"
        if self.folders:
            first = min(self.folders)
            yield f"left out {_many(len(self.folders), 'folder')} of gcpatch's own: {first!r}" + (
                ", ..." if len(self.folders) > 1 else ""
            )


def _many(count: int, what: str) -> str:
    return f"{count} {what}s" if count > 1 and what in NOUNS else f"{count} {what}"
