"""Images at addresses that fsspec opens, `s3://bucket/photos/`; needs fsspec, and its driver."""

import os
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from gcpatch.data.images import MAX_PIXELS, SUFFIXES, ImageError
from gcpatch.data.listing import Entry, Hint, LeftOut

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
MAGIC = re.compile(r"[*?[]")
ON_DISKS = (".csv", ".jsonl", ".tar", ".gz", ".tgz", ".parquet", ".arrow")  # which list others


def entries(address: str, left: LeftOut) -> Iterator[Entry]:
    """The images that an address names, sorted: a file, a folder with all below it, or a glob.

    Nothing but the list is read. The folders right below a folder are labels, as on a disk.

    Args:
        address: a source that `ADDRESS` matches.
        left: told what is not read.

    Raises:
        ImageError: fsspec or its driver is missing, the address cannot be listed, it has no
            images, or it is of a manifest or an archive.
    """
    if address.lower().endswith(ON_DISKS):
        raise ImageError(f"{address!r} is read from disks alone; fetch it first.")
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ImageError(
            f"{address!r} needs fsspec; pip install 'gcpatch[remote]' brings it."
        ) from None
    try:
        system, path = url_to_fs(address)
        files = system.glob(path) if MAGIC.search(path) else system.find(path)  # a file's is itself
    except Exception as error:  # whatever a driver raises
        reason = _short(error)
        raise ImageError(f"{address!r} cannot be listed ({reason}); check the address.") from None
    found = False
    for file in sorted(files):
        inner = file.removeprefix(path).strip("/").split("/")
        if os.path.basename(file).startswith("."):
            continue
        if file != path and not file.lower().endswith(SUFFIXES):
            left.file(file)
            continue
        found, where = True, system.unstrip_protocol(file)
        hint = Hint(address, inner[0]) if file.startswith(path) and len(inner) > 1 else None
        yield Entry(where, where, where, hint=hint, read=partial(_bytes, system, file, where))
    if not found:
        raise ImageError(f"{address!r} has no image; check its name and suffixes.")


def _bytes(system: Any, file: str, where: str) -> bytes:
    try:
        size = system.size(file)
        if size is not None and size > 16 * MAX_PIXELS:
            raise ValueError(f"it takes more bytes than {MAX_PIXELS} pixels need")
        return system.cat_file(file)
    except Exception as error:  # whatever a driver raises
        raise ImageError(f"{where!r} cannot be read ({_short(error)}); run this again.") from None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
