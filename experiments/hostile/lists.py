"""Manifests, classes and masks."""

from experiments.formats import encode, picture
from experiments.hostile import files
from experiments.hostile.files import small
from experiments.hostile.rows import (
    ATTACK,
    BEFORE,
    DONE,
    NO_IMAGE,
    ONE,
    PIXELS,
    Row,
    both,
    file,
    good,
)


def listed(kind: str, text: str | bytes, status: int, words: str) -> Row:
    """A manifest beside a picture that is good, and `x.png` that is none."""

    data = text if isinstance(text, bytes) else text.encode()
    write = both(good, file("x.png", b"no"), file("x.csv", data))
    return Row(f"manifest: {kind}", write, ATTACK.format("x.csv"), status, words)


LISTS = [
    listed("a field of 200 kB", "path\n" + "a" * 200_000, 2, "x.csv, line 2: "),
    listed("zero bytes", "path\na\0b.png\n", 1, "'a\\x00b.png' cannot be read"),
    listed("UTF-16", "path\nx.png\n".encode("utf-16"), 2, "x.csv, line 1: this is not UTF-8"),
    listed("a byte order mark", "\ufeffpath\nx.png\n", 1, NO_IMAGE),
    listed("paths that climb", "path\n../../../secret.png\n", 1, "cannot be read"),
    listed("a quote that never ends", 'path\n"x.png\n' + "y\n" * 1000, 2, "x.csv, line 2: "),
    listed(
        "a label of 100 kB",
        f'path,label\ngood.png,"{"y" * 100_000}"\n',
        1,
        "x.csv, line 2: there is no class 'yyy",
    ),
    listed(
        "labels that are none",
        "path,label\ngood.png,-1\n",
        1,
        "x.csv, line 2: there is no class '-1'",
    ),
    listed(
        "a target of 4,000 digits",
        f"path,target\ngood.png,{'9' * 4000}\n",
        1,
        "x.csv, line 2: there is no class",
    ),
    listed("one line 100,000 times", "path\n" + "x.png\n" * 10**5, 1, ONE),
    Row(
        "manifest: 100,000 brackets",
        file("x.jsonl", b"[" * 100_000),
        ATTACK.format("x.jsonl"),
        2,
        "x.jsonl, line 1: this is no JSON object",
    ),
    Row(
        "target: a name of 100 kB",
        good,
        BEFORE + f"--target {'y' * 100_000}",
        2,
        "there is no class 'yyy",
    ),
    Row(
        "mask: no picture",
        both(good, file("m.png", b"no")),
        BEFORE + "--mask m.png",
        2,
        NO_IMAGE,
    ),
    Row(
        "mask: black",
        both(good, file("m.png", encode(small() * 0, "PNG"))),
        BEFORE + "--mask m.png",
        2,
        "the mask is all black or clear",
    ),
    Row(
        "mask: claims 256 Mpixels",
        both(good, file("m.png", files.claiming("PNG", 16_000))),
        BEFORE + "--mask m.png",
        2,
        PIXELS,
    ),
    Row(
        "mask: of another size",
        both(good, file("m.png", encode(picture(), "PNG"))),
        BEFORE + "--mask m.png",
        0,
        DONE,
    ),
]
