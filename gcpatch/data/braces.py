"""Sources that a brace list names: `shards/{00..09}.tar`, `photos/{cats,dogs}/`."""

import os
import re
from collections.abc import Iterable, Iterator

from gcpatch.data.images import ImageError

LIST = re.compile(r"\{([^{}]*,[^{}]*|(\d{1,9})\.\.(\d{1,9}))\}")  # the innermost, of a nested one
MOST = 100_000


def expand(source: str) -> list[str]:
    """What a brace list names, each once, as a shell expands it; nested ones in another order.

    Of numbers the longer one's digits count where one begins with 0: `{8..010}` is 008, 009, 010.
    What is there under the name as it is written is taken literally.

    Raises:
        ImageError: the list names more than `MOST` sources.
    """
    names = [source]
    while not os.path.lexists(source) and any(map(LIST.search, names)):
        names = list(dict.fromkeys(_bounded(source, (n for name in names for n in _first(name)))))
    return names


def _first(name: str) -> Iterator[str]:
    """The names that the first list makes of one; itself if it has none."""
    match = LIST.search(name)
    if match is None:
        yield name
        return
    for choice in match[1].split(",") if match[2] is None else _numbers(match[2], match[3]):
        yield name[: match.start()] + choice + name[match.end() :]


def _numbers(first: str, last: str) -> Iterator[str]:
    start, end = int(first), int(last)
    padded = any(len(text) > 1 and text[0] == "0" for text in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if start <= end else -1
    return (f"{number:0{width}d}" for number in range(start, end + step, step))


def _bounded(source: str, names: Iterable[str]) -> Iterator[str]:
    for count, name in enumerate(names):
        if count == MOST:
            raise ImageError(f"{source!r} names more than {MOST} sources; name a folder or a list.")
        yield name
