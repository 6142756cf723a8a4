"""Image files that files, folders and glob patterns name, and what of them is gcpatch's own."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path

from gcpatch.data.images import SUFFIXES, ImageError
from gcpatch.data.listing import Entry, Hint, LeftOut, raw

OURS = (  # files that tell a folder of ours: a run, an image of one, `explain`, `transfer`
    ("run.json",),
    ("history.npz", "adversarial.png"),
    ("heat.npy", "overlay.png"),
    ("transfer.jsonl", "transfer.png"),
)
MAGIC = re.compile(r"[*?[]")


def find_files(
    sources: Iterable[str], real: Callable[[str], str], left: LeftOut, without: Path | None = None
) -> list[Entry]:
    """The image files that `sources` name, sorted, each file once.

    A source is a file (taken whatever its suffix), a folder (searched through all its levels,
    links to folders included, for `SUFFIXES` in any case), or a glob pattern (its files filtered
    by suffix, its folders searched; `**` goes through all levels but follows no links). An
    existing file or folder is taken literally even where its name reads as a pattern. Names that
    begin with a dot are passed over unless the source spells them out, and so are folders that
    gcpatch wrote and all in them, unless the source is a file.

    Args:
        sources: as above.
        real: the absolute path of a folder without links.
        left: told what is not read.
        without: a folder of which nothing is taken, wherever it is.

    Raises:
        ImageError: a source matches nothing, or is a folder without images, even of ours.
    """
    output = None if without is None else real(str(without))
    ours = cache(partial(_ours, output))
    files = [file for source in sources for file in _expand(source, real, ours, left)]
    files.sort(key=_order)
    found: dict[str, Entry] = {}
    for path, root in files:
        target = os.path.realpath(path) if path.is_symlink() else str(path)
        folder, name = os.path.split(target)
        identity = os.path.join(real(folder), name)
        if output is not None and identity.startswith(os.path.join(output, "")):
            left.folders[str(without)] += 1
            continue
        inner = path.relative_to(root).parts if root else ()
        hint = Hint(str(root), inner[0]) if len(inner) > 1 else None
        found.setdefault(identity, Entry(identity, str(path), str(path), hint=hint))
    return list(found.values())


def _order(file: tuple[Path, Path | None]) -> tuple[list[bytes], bool, int]:
    """By name; of the sources that name a file, the one whose folder is the highest."""
    path, root = file
    return raw(str(path)).split(b"/"), root is None, len(str(root))


def _ours(without: str | None, folder: str) -> bool:
    """Whether a folder is to be left out: it is `without`, or gcpatch wrote it."""
    if without is not None and os.path.realpath(folder) == without:
        return True
    return any(all(os.path.exists(os.path.join(folder, n)) for n in names) for names in OURS)


def _expand(
    source: str, real: Callable[[str], str], ours: Callable[[str], bool], left: LeftOut
) -> list[tuple[Path, Path | None]]:
    """Files, each with the folder whose sub-folders may be classes."""
    before = left.folders.total()
    files: list[tuple[Path, Path | None]]
    if os.path.isdir(source):
        root, what = Path(source), "is a folder without images"
        files = [(path, root) for path in _walk(root, real, ours, left)]
    elif os.path.exists(source):
        return [(Path(source), None)]
    else:
        what = "matches no image"
        files = list(_glob(source, real, ours, left))
    if not files and left.folders.total() == before:
        raise ImageError(f"{source!r} {what}; check the name and suffixes ({' '.join(SUFFIXES)}).")
    return files


def _walk(
    folder: Path, real: Callable[[str], str], ours: Callable[[str], bool], left: LeftOut
) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise ImageError(
            f"{str(error.filename)!r} cannot be listed ({error.strerror}); check its permissions."
        )

    seen = set()  # real folders, because a link may lead back up
    for root, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        again = real(root) in seen
        seen.add(real(root))
        if not again and ours(root):
            left.folders[root] += 1
            again = True
        folders[:] = [] if again else sorted(name for name in folders if name[0] != ".")
        for name in [] if again else files:
            if name[0] == ".":
                continue
            if name.lower().endswith(SUFFIXES):
                yield Path(root, name)
            else:
                left.file(os.path.join(root, name))


def _glob(
    pattern: str, real: Callable[[str], str], ours: Callable[[str], bool], left: LeftOut
) -> Iterator[tuple[Path, Path]]:
    parts, anchor = Path(pattern).parts, Path(pattern).anchor
    literal = next((n for n, part in enumerate(parts) if MAGIC.search(part)), len(parts))
    root = Path(*parts[:literal])
    try:
        matches = list(Path(anchor).glob(pattern.removeprefix(anchor).lstrip("/")))
    except (OSError, ValueError, IndexError):  # no file can match such a pattern
        return
    for path in matches:
        if any(part[0] == "." and part not in parts for part in path.parts):
            continue
        above = (str(Path(*path.parts[:n])) for n in range(literal, len(path.parts)))
        if folder := next(filter(ours, above), None):
            left.folders[folder] += 1
        elif path.is_dir():
            yield from ((file, root) for file in _walk(path, real, ours, left))
        elif path.suffix.lower() in SUFFIXES:
            yield path, root
        else:
            left.file(str(path))
