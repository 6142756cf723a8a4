"""Manifests of images: `.csv` and `.jsonl`, whose lines name a file or a member of an archive."""

import csv
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from typing import Any

from gcpatch.data import images
from gcpatch.data.images import ImageError
from gcpatch.data.listing import Entry, native

ARCHIVE = re.compile(r"\.(tar|tar\.gz|tgz)(?=[/:].)", re.IGNORECASE | re.DOTALL)


def entries(
    source: str, real: Callable[[str], str], members: Callable[[str], Mapping[str, Entry]]
) -> Iterator[Entry]:
    """The images of a manifest in its own order; looks at no file but archives.

    Args:
        source: the manifest. `path` is relative to its folder, and `ARCHIVE.tar/MEMBER` or
            `ARCHIVE.tar:MEMBER` (or `.tar.gz`, `.tgz`) where that archive is there.
        real: the absolute path of a folder without links.
        members: the images of an archive by name.

    Raises:
        ImageError: the manifest or an archive cannot be read or is malformed; the message names it
            and the line.
    """
    folder = os.path.dirname(source)
    rows = _csv if source.lower().endswith(".csv") else _jsonl
    with images.opened(source) as file:
        for number, row in rows(source, _lines(source, file)):
            listed = f"{source}, line {number}"
            path, target, label = (row.get(name) for name in ("path", "target", "label"))
            if not isinstance(path, str) or not path:
                raise ImageError(
                    f"{listed}: path is {path!r}; give a file's name or delete the line."
                )
            where = os.path.join(folder, native(path))
            inside, name = os.path.split(where)
            entry = _member(where, members) or Entry(os.path.join(real(inside), name), where, where)
            yield entry._replace(
                target=_class(listed, "target", target),
                label=_class(listed, "label", label),
                listed=listed,
            )


def _member(where: str, members: Callable[[str], Mapping[str, Entry]]) -> Entry | None:
    for match in ARCHIVE.finditer(where) if "\0" not in where else ():
        if os.path.isfile(archive := where[: match.end()]):
            return members(archive).get(os.path.normpath(where[match.end() + 1 :]))
    return None


def _class(listed: str, name: str, value: Any) -> str | None:
    if type(value) not in (str, int, float, type(None)):
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
