"""What a row of the table is: a hostile input, what meets it, and what must be answered."""

import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.formats import encode
from experiments.hostile.files import pack, small

ATTACK = "attack {} --model mini_vgg --steps 1 --out out"
BEFORE = "attack good.png --model mini_vgg --steps 1 --out out "
ONE, DONE = "1 images, 1 failed", "1 images, 0 failed"
NO_IMAGE = "is not an image that can be read"
PIXELS = "has more than the 100000000 pixels that are read"
ABSURD = 10**30
# A user without a name, who may read no more than others; a disk of 64 kB.
STRANGER = ("unshare", "--user", "--map-user=12345")
FULL = (
    *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c"),
    'mkdir out; mount -t tmpfs -o size=64k tmpfs out && exec "$@"',
    "sh",
)


class Row(NamedTuple):
    """A hostile input.

    Attributes:
        kind: what is hostile.
        write: writes it into the working folder; what it returns is kept until the command ends.
        command: what runs there, as a shell splits it; its output goes to `out`.
        status: the exit status that is right.
        words: what standard error or output must say.
        holds: what must be so afterwards in the working folder.
        environment: of a process of its own, without the variables that are None; None where any
            process will do.
        under: the command that runs it.
    """

    kind: str
    write: Callable[[Path], Any]
    command: str
    status: int
    words: str
    holds: Callable[[Path], bool] = lambda box: True
    environment: Mapping[str, str | None] | None = None
    under: tuple[str, ...] = ()


def good(box: Path) -> None:
    """A picture without fault."""
    (box / "good.png").write_bytes(encode(small(), "PNG"))


def file(name: str, data: bytes | Callable[[], bytes]) -> Callable[[Path], Any]:
    """Writes one file."""

    def write(box: Path) -> None:
        (box / name).parent.mkdir(parents=True, exist_ok=True)
        (box / name).write_bytes(data() if callable(data) else data)

    return write


def tar(members: Mapping[str, bytes | tarfile.TarInfo]) -> Callable[[Path], Any]:
    """Packs `x.tar`."""
    return lambda box: pack(box / "x.tar", members)


def both(*writers: Callable[[Path], Any]) -> Callable[[Path], list[Any]]:
    """Writes one after the other."""
    return lambda box: [write(box) for write in writers]


class Runs:
    """Pickled, a command that leaves a file `ran`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def nothing_ran(box: Path) -> bool:
    """Whether no pickle's command has run."""
    return not (box / "ran").exists()
