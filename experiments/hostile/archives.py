"""Archives that nobody would have packed."""

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.hostile import files
from experiments.hostile.rows import ATTACK, ONE, Row, file, tar

LINKS = {
    f"{n}.png": files.link(f"{n}.png", "/etc/passwd", kind)
    for n, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE))
}
DEVICES = {
    f"{n}.png": files.link(f"{n}.png", "", kind)
    for n, kind in enumerate((tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE))
}
TAR = ATTACK.format("x.tar")
NO_TAR = "'x.tar' is no whole tar archive ("


def _twice(box: Path) -> None:
    with tarfile.open(box / "x.tar", "w") as archive:
        for content in (b"one", b"the other"):
            (box / "a.png").write_bytes(content)
            archive.add(box / "a.png", "a.png")


def _many_members(box: Path) -> None:
    with open(box / "x.tar", "wb") as archive:
        archive.write(files.block("x.txt", tarfile.REGTYPE, 0) * 20_000 + bytes(1024))


def _raw(*blocks: bytes) -> Callable[[Path], Any]:
    return file("x.tar", b"".join(blocks) + bytes(1024))


PICTURE = files.block("a.png", tarfile.REGTYPE, 3, b"abc")
ARCHIVES = [
    Row("tar: absolute member", tar({"/etc/x.png": b"no"}), TAR, 1, "is not an image"),
    Row("tar: climbing member", tar({"../../x.png": b"no"}), TAR, 1, "is not an image"),
    Row("tar: links to outside", tar(LINKS), TAR, 2, "'x.tar' names no image"),
    Row(
        "tar: links beside a file", tar({"a.png": b"", **LINKS}), TAR, 1, "skipped 2 files: 2 links"
    ),
    Row("tar: devices and a pipe", tar({"a.png": b"", **DEVICES}), TAR, 1, "1 pipe"),
    Row("tar: one name twice", _twice, TAR, 1, ONE),
    Row("tar: 20,000 members", _many_members, TAR, 2, "'x.tar' names no image"),
    Row(
        "tar: 300 kB of digits as a pax header",
        _raw(files.block("pax", tarfile.XHDTYPE, 300_000, b"9" * 300_000), PICTURE),
        TAR,
        2,
        NO_TAR,
    ),
    Row(
        "tar: a name of 8 GB",
        _raw(files.block("long", tarfile.GNUTYPE_LONGNAME, 8**11 - 1), PICTURE),
        TAR,
        2,
        "the header 'long' has 8589934591 bytes",
    ),
    Row(
        "tar: a chain of 3,000 headers",
        _raw(files.block("next", tarfile.XHDTYPE, 9, b"9 a=bcde\n") * 3000, PICTURE),
        TAR,
        2,
        NO_TAR,
    ),
    Row(
        "tar: a member of 8 GB that is not there",
        _raw(files.block("a.png", tarfile.REGTYPE, 8**11 - 1)),
        TAR,
        2,
        NO_TAR,
    ),
    Row("tar: a negative size", _raw(files.block("a.png", tarfile.REGTYPE, -512)), TAR, 2, NO_TAR),
    Row("tar: sparse", _raw(files.block("a", tarfile.GNUTYPE_SPARSE, 0)), TAR, 2, "is sparse"),
    Row("tar: cut short", file("x.tar", PICTURE[:700]), TAR, 2, NO_TAR),
    Row("tar: is a zip", file("x.tar", b"PK\3\4" + bytes(2000)), TAR, 2, NO_TAR),
    Row(
        "tar.gz: unpacks to 100 MB",
        file("x.tar.gz", lambda: gzip.compress(bytes(10**8), 1)),
        ATTACK.format("x.tar.gz"),
        2,
        "names no image",
    ),
    Row(
        "tar: is a gzip that unpacks to 100 MB",
        file("x.tar", lambda: gzip.compress(bytes(10**8), 1)),
        TAR,
        2,
        NO_TAR,
    ),
    Row(
        "tar: a sidecar of 100,000 brackets",
        tar({"a.png": b"", "a.json": b"[" * 100_000}),
        TAR,
        1,
        "skipped 1 file: 1 .json",
    ),
]
