"""Images in `.tar` archives, which are read in place; only gzip's are unpacked before.

`tarfile` before CPython 3.11.10, 3.12.6 and 3.13.0 searches a header's text in time that grows
with the square of a row of digits (CVE-2024-6232), so headers are checked before it sees them.
"""

import json
import os
import posixpath
import re
import sys
import tarfile
from typing import Any

from gcpatch.data import images
from gcpatch.data.images import SUFFIXES, ImageError
from gcpatch.data.listing import Entry, Hint, LeftOut, native
from gcpatch.data.packed import gzipped

COMPRESSED = re.compile(r"\.(tar\.(bz2|xz|zst|lz4|z)|tbz2?|txz|tzst)$", re.IGNORECASE)
GZIPPED = re.compile(r"\.(tar\.gz|tgz)$", re.IGNORECASE)
HIDDEN = re.compile(r"(^|/)\.[^./]")  # also the companions that macOS packs: ._picture.jpg
SIDECARS = (".json", ".cls")  # the latter counts where an image has both
HEADER = 2**20  # bytes that a long name, or a list of attributes, may have
ATTRIBUTES = 256  # in one header
RECORD = re.compile(rb"(\d{1,7}) [^=\n]{1,255}=")
DIGITS = re.compile(rb"\d{256}")
PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


def members(source: str, folder: str, left: LeftOut) -> dict[str, Entry]:
    """The images of an archive, `.tar`, `.tar.gz` or `.tgz`, by their members' names, sorted.

    Members that are no files or have no suffix of an image are told to `left`, those with hidden
    names passed over; of members of one name the last counts. A true class is that of a sidecar
    with the image's name up to its suffix, or else up to its first dot: `.cls`, or the key `cls`
    or `label` of a `.json`.

    Args:
        source: the archive.
        folder: the absolute path of the archive's folder without links.
        left: told what is not read.

    Raises:
        ImageError: this is no whole, plain tar archive, or one that nobody would have packed.
    """
    found: dict[str, tuple[int, int]] = {}
    hints: dict[str, str] = {}
    where = os.path.join(folder, os.path.basename(source))
    path = gzipped.unpacked(source) if GZIPPED.search(source) else source
    with images.opened(path) as file:
        try:
            with tarfile.open(
                fileobj=file,
                mode="r:",
                tarinfo=_Checked,
                encoding="utf-8",
                errors="surrogateescape",
            ) as archive:
                while member := archive.next():
                    archive.members.clear()  # type: ignore[attr-defined]  # a kilobyte each
                    name = native(posixpath.normpath(member.name))
                    if member.size < 0 or member.issparse():
                        raise tarfile.ReadError(f"{name!r} is sparse or of negative size")
                    if HIDDEN.search(name) or member.isdir():
                        continue
                    suffix = posixpath.splitext(name)[1].lower()
                    if not member.isreg():
                        left.file(f"{where}/{name}", KINDS.get(member.type, "of unknown kind"))
                    elif name.lower().endswith(SUFFIXES):
                        found[name] = member.offset_data, member.size
                    elif suffix not in SIDECARS or not _sidecar(hints, file, member, name, suffix):
                        left.file(f"{where}/{name}")
                file.seek(archive.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile lets it pass
                    raise tarfile.ReadError("the end is missing")
        except (tarfile.TarError, OverflowError, RecursionError, UnicodeError) as error:
            raise ImageError(
                f"{source!r} is no whole tar archive ({error}); fetch or pack it again."
            ) from None
    return {
        name: Entry(f"{where}/{name}", f"{source}:{name}", path, *place, hint=hint)
        for name, place in sorted(found.items(), key=lambda member: member[0].split("/"))
        for hint in [_hint(source, hints, name)]
    }


KINDS = {
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "pipe",
}


def _sidecar(
    hints: dict[str, str], file: Any, member: tarfile.TarInfo, name: str, suffix: str
) -> bool:
    """Whether a sidecar gives a class, which `hints` then has under its name."""
    if member.size > HEADER:
        return False
    file.seek(member.offset_data)
    try:
        found = file.read(member.size).decode()
        if suffix == ".json":
            row = json.loads(found)
            found = next(row[key] for key in ("cls", "label") if row.get(key) is not None)
    except (ValueError, RecursionError, AttributeError, StopIteration):
        return False
    if type(found) not in (str, int, float) or not str(found).strip():
        return False
    hints[name[: -len(suffix)] + suffix] = sys.intern(str(found).strip())
    return True


def _hint(source: str, hints: dict[str, str], name: str) -> Hint | None:
    folder, slash, last = name.rpartition("/")
    for stem in (last.rpartition(".")[0], last.partition(".")[0]):
        for suffix in reversed(SIDECARS):
            if label := hints.get(f"{folder}{slash}{stem}{suffix}"):
                return Hint(source, label)
    return None


class _Checked(tarfile.TarInfo):
    """A header that is only parsed further if that takes little time and memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError(f"{self.name!r} is sparse or of negative size")
        if self.type in PAX + LONG:
            if not 0 <= self.size <= HEADER:
                raise tarfile.ReadError(f"the header {self.name!r} has {self.size} bytes")
            file: Any = archive.fileobj
            at = file.tell()
            text = file.read(-(-self.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
            file.seek(at)
            if self.type in PAX:
                _check(self.name, text, len(archive.pax_headers))
        return super()._proc_member(archive)  # type: ignore[misc]


def _check(name: str, text: bytes, known: int) -> None:
    """Raises ReadError unless `text` is a list of attributes that any `tarfile` reads quickly.

    Each is `LENGTH KEY=VALUE` and a line break, and none has a long row of digits. The work is
    one pass over the text, and 256 comparisons a byte in the worst case.
    """
    at = 0
    while at < len(text) and text[at]:
        match = RECORD.match(text, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(text) or text[end - 1] != ord("\n"):
            raise tarfile.ReadError(f"the header {name!r} is malformed")
        if b"GNU.sparse." in match[0]:
            raise tarfile.ReadError(f"{name!r} is sparse or of negative size")
        at, known = end, known + 1
    if known > ATTRIBUTES:
        raise tarfile.ReadError(f"the header {name!r} has over {ATTRIBUTES} attributes")
    if DIGITS.search(text):
        raise tarfile.ReadError(f"the header {name!r} has a row of over 255 digits")
