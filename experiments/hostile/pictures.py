"""Pictures that are none, that claim much, and names that no one would choose."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.formats import encode
from experiments.hostile import files
from experiments.hostile.files import small
from experiments.hostile.rows import ATTACK, DONE, NO_IMAGE, ONE, PIXELS, STRANGER, Row, file


def shown(name: str, data: bytes | Callable[[], bytes], words: str, kind: str) -> Row:
    """A picture that costs only itself."""
    return Row(kind, file(f"in/{name}", data), ATTACK.format("in"), 1, words)


def _link_loop(box: Path) -> None:
    os.symlink("x.png", box / "x.png")


def _folder_loop(box: Path) -> None:
    (box / "in").mkdir()
    for name in ("a", "b"):
        os.symlink("..", box / "in" / name)
    file("in/x.png", b"no")(box)


def _huge_file(box: Path) -> None:
    with open(box / "x.jpg", "wb") as sparse:
        sparse.write(b"\xff\xd8\xff")
        sparse.truncate(2 * 10**9)


def _bad_name(name: bytes) -> Callable[[Path], Any]:
    def write(box: Path) -> None:
        (box / "in").mkdir()
        with open(os.path.join(os.fsencode(box), b"in", name), "wb") as out:
            out.write(b"no")

    return write


def _unreadable(box: Path) -> None:
    file("x.png", b"no")(box)
    (box / "x.png").chmod(0)


def _large(box: Path) -> None:
    data = files.large_png(10_000, 6)
    for n in range(2):
        file(f"in/{n}.png", data)(box)


DAMAGED = "is damaged, cut short or of a rare variant"
IN = ATTACK.format("in")
PICTURES = [
    *(
        shown(
            f"x.{kind.lower()}", files.claiming(kind, 16_000), PIXELS, f"{kind}: claims 256 Mpixels"
        )
        for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
    ),
    *(
        shown("x.png", files.packed(kind), DAMAGED, f"PNG: {kind} of 30 MB")
        for kind in ("zTXt", "iTXt", "iCCP")
    ),
    shown("x.jpg", files.many_scans(), "of too many scans", "JPEG: a hundred scans"),
    *(
        shown(f"x.{kind.lower()}", encode(small(), kind)[:-200], "'in/x.", f"{kind}: cut short")
        for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
    ),
    shown("x.png", b"", "is empty (0 bytes)", "a picture of no bytes"),
    shown("x.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", NO_IMAGE, "PNG: is an SVG"),
    shown("x.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NO_IMAGE, "JPEG: is EPS"),
    Row(
        "a folder called x.png", file("x.png/y.txt", b""), ATTACK.format("x.png"), 2, "without ima"
    ),
    Row(
        "a pipe called x.png", lambda box: os.mkfifo(box / "x.png"), ATTACK.format("x.png"), 1, ONE
    ),
    Row("a link to itself", _link_loop, ATTACK.format("x.png"), 2, "matches no image"),
    Row("folders that lead back up", _folder_loop, IN, 1, ONE),
    Row("a file of 2 GB", _huge_file, ATTACK.format("x.jpg"), 1, "takes more bytes than"),
    Row(
        "a name that is not UTF-8", _bad_name(b"\xff\xfe.png"), IN, 1, "\\udcff\\udcfe.png' is not"
    ),
    Row("a line break in a name", _bad_name(b"a\nb.png"), IN, 1, "'in/a\\nb.png' is not an image"),
    Row("an escape in a name", _bad_name(b"\x1b[31m\x07.png"), IN, 1, "'in/\\x1b[31m\\x07.png' is"),
    Row("a name of 255 bytes", _bad_name(b"n" * 251 + b".png"), IN, 1, "nnn.png' is not an image"),
    Row(
        "a picture nobody may read",
        _unreadable,
        ATTACK.format("x.png"),
        1,
        "Permission denied",
        under=STRANGER,
    ),
    *(
        Row(kind, write, ATTACK.format("in"), 0, f"{count} images, 0 failed")
        for count, kind, write in (
            (1, "PNG: called .jpg", file("in/x.jpg", encode(small(), "PNG"))),
            (1, "TIFF: a page that is its own next one", file("in/x.tif", files.endless_tiff())),
        )
    ),
    Row(
        "PNG: 100 Mpixels, all clear",
        file("x.png", lambda: files.large_png(10_000, 6)),
        ATTACK.format("x.png"),
        0,
        DONE,
        environment={},
    ),
    Row("PNG: two of 100 Mpixels at once", _large, IN, 0, "2 images, 0 failed", environment={}),
]
