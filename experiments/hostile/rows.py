"""The table: hostile inputs, the command that meets each, and what must be answered."""

import gzip
import io
import json
import os
import pickle
import re
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from experiments.formats import encode, picture
from experiments.hostile import files
from experiments.hostile.files import small

ATTACK = "attack {} --model mini_vgg --steps 1 --out out"
ONE = "1 images, 1 failed"
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


def file(name: str, data: bytes | Callable[[], bytes]) -> Callable[[Path], None]:
    """Writes one file."""

    def write(box: Path) -> None:
        (box / name).parent.mkdir(parents=True, exist_ok=True)
        (box / name).write_bytes(data() if callable(data) else data)

    return write


def tar(members: Mapping[str, bytes | tarfile.TarInfo]) -> Callable[[Path], None]:
    """Packs `x.tar`."""
    return lambda box: files.pack(box / "x.tar", members)


# ---------------------------------------------------------------- archives

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


def _raw(*blocks: bytes) -> Callable[[Path], None]:
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
        "is compressed",
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

# ---------------------------------------------------------------- pictures


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


def _bad_name(name: bytes) -> Callable[[Path], None]:
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
    for n in range(8):
        file(f"in/{n}.png", data)(box)


NO_IMAGE = "is not an image that can be read"
DAMAGED = "is damaged, cut short or of a rare variant"
PIXELS = "has more than the 100000000 pixels that are read"
IN = ATTACK.format("in")
PICTURES = [
    *(
        shown(
            f"x.{kind.lower()}", files.claiming(kind, 16_000), PIXELS, f"{kind}: claims 256 Mpixels"
        )
        for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
    ),
    *(
        shown("x.png", lambda kind=kind: files.packed(kind), DAMAGED, f"PNG: {kind} of 30 MB")
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
        "1 images, 0 failed",
        environment={},
    ),
    Row("PNG: eight of 100 Mpixels at once", _large, IN, 0, "8 images, 0 failed", environment={}),
]

# ---------------------------------------------------------------- checkpoints

CONVERT = "convert mini_vgg --weights x.pth --out out/c"


class _Runs:
    """Pickled, a command that leaves a file `ran`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Writes `x.pth`: what `change` makes of a state_dict that is right."""

    def write(box: Path) -> None:
        import torch

        from convert.torchvision import to_torch
        from gcpatch.networks import checkpoints

        state = to_torch(checkpoints.load("mini_vgg"))
        torch.save(change(state), box / "x.pth")

    return write


def _expanded(state: dict[str, Any]) -> dict[str, Any]:
    import torch

    return state | {"features.0.weight": torch.zeros(1).expand(10**6, 10**6)}


def _no_classes(state: dict[str, Any]) -> dict[str, Any]:
    head = [name for name in state if name.startswith("classifier")][-2:]
    return state | {name: state[name][:0] for name in head}


def _float8(state: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {
        name: value.to(torch.float8_e4m3fn) if value.is_floating_point() else value
        for name, value in state.items()
    }


def _wrong_checksum(box: Path) -> None:
    weights(dict)(box)
    data = bytearray((box / "x.pth").read_bytes())
    data[len(data) // 2] ^= 1
    (box / "x.pth").write_bytes(data)


def _checkpoint(**changes: Any) -> Callable[[Path], None]:
    """Writes the folder `c` with a manifest of which some fields are other."""

    def write(box: Path) -> None:
        from gcpatch.networks import checkpoints

        manifest = checkpoints.save(checkpoints.load("mini_vgg"), box / "c", "scenes") | changes
        (box / "c" / "manifest.json").write_text(json.dumps(manifest))

    return write


OURS = "attack good.png --model mini_vgg --weights c --steps 1 --out out"
CHECKPOINTS = [
    Row(
        "weights: a pickle that runs code",
        weights(lambda _: _Runs()),
        CONVERT,
        2,
        "could run code and is not read",
        lambda box: not (box / "ran").exists(),
    ),
    Row(
        "weights: a bare pickle that runs code",
        file("x.pth", pickle.dumps(_Runs())),
        CONVERT,
        2,
        "x.pth",
        lambda box: not (box / "ran").exists(),
    ),
    Row("weights: a bare pickle", file("x.pth", pickle.dumps({"a": [1.0]})), CONVERT, 2, "x.pth"),
    Row("weights: a tensor expanded to 4 TB", weights(_expanded), CONVERT, 2, "features.0.weight"),
    Row("weights: float8", weights(_float8), CONVERT, 2, "float"),
    Row("weights: no classes", weights(_no_classes), CONVERT, 2, "class"),
    Row("weights: a wrong checksum", _wrong_checksum, CONVERT, 2, "x.pth cannot be read"),
    Row("weights: no bytes", file("x.pth", b""), CONVERT, 2, "x.pth cannot be read"),
    Row(
        "weights: NaN",
        weights(lambda s: {k: v * float("nan") for k, v in s.items()}),
        CONVERT,
        2,
        "not finite",
    ),
    Row(
        "checkpoint: a manifest of brackets",
        file("c/manifest.json", b"[" * 100_000),
        OURS,
        2,
        "manifest.json",
    ),
    Row(
        "checkpoint: of a newer format", _checkpoint(format=ABSURD), OURS, 2, "install a newer one"
    ),
    Row("checkpoint: files elsewhere", _checkpoint(files={"../../x": "0"}), OURS, 2, "is damaged"),
    Row("checkpoint: another digest", _checkpoint(digest="0"), OURS, 2, "is damaged"),
]

# ---------------------------------------------------------------- runs

NAMED = {"id": 1, "name": "dots", "probability": 0.9}
RECORD: dict[str, Any] = {
    "id": "a",
    "source": "a.png",
    "model": "mini_vgg",
    "objective": "hide",
    "error": None,
    "skipped": None,
    "target": NAMED,
    "clean": NAMED,
    "adversarial": NAMED,
    "png": NAMED,
    "steps": 3,
    "fooled_class": True,
    "energy_clean": 0.5,
    "energy_adversarial": 0.1,
}
SETTINGS = {
    "settings": {
        "model": "mini_vgg",
        "objective": "hide",
        "patch": {"size": 64, "ratio": 1.0, "position": "top-right"},
    }
}
MARKUP = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
FORMULA = '=HYPERLINK("http://x/",A1)'
REPORT = "report run --out out"
LEFT = "left out: "


def run(
    *lines: Any, settings: bytes = json.dumps(SETTINGS).encode(), **others: bytes
) -> Callable[[Path], None]:
    """Writes the folder `run`: its records (or lines as they are), settings, and other files."""

    def write(box: Path) -> None:
        raw = (
            x if isinstance(x, bytes) else json.dumps(RECORD | x).encode() + b"\n" for x in lines
        )
        made = {"run.json": settings, "results.jsonl": b"".join(raw)} | others
        for name, data in made.items():
            file(f"run/{name}", data)(box)

    return write


def _objects() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **{"a/total": np.array([_Runs()])}, allow_pickle=True)
    return stream.getvalue()


def _page(box: Path) -> str:
    return (box / "out" / "report.html").read_text()


RUNS = [
    Row("records: half a line", run({}, b'{"id": "b", "sou'), REPORT, 0, "which is cut short"),
    Row(
        "records: a list, a number, bytes",
        run({}, b"[1]\n", b"7\n", b"\xff\xfe\n"),
        REPORT,
        0,
        "which is no record",
    ),
    Row(
        "records: 100,000 brackets",
        run({}, b"[" * 100_000 + b"\n"),
        REPORT,
        0,
        "which is no record",
    ),
    Row("records: an id that is a list", run({}, {"id": ["x"]}), REPORT, 0, "which is no record"),
    Row(
        "records: NaN and Infinity",
        run({"steps": float("nan"), "energy_clean": float("inf")}),
        REPORT,
        0,
        "report.html",
        lambda box: "NaN" not in _page(box).partition('id="data">')[2].partition("</script>")[0],
    ),
    Row(
        "records: numbers of 5,000 digits",
        run({}, b'{"id": "b", "steps": ' + b"9" * 5000 + b"}\n"),
        REPORT,
        0,
        LEFT,
    ),
    Row(
        "records: numbers of 400 digits",
        run({"steps": 10**400, "psnr": -(10**400)}),
        REPORT,
        0,
        "report.html",
    ),
    Row(
        "records: booleans and texts for numbers",
        run({"steps": "many", "energy_clean": True, "fooled_class": 7, "png": {"id": []}}),
        REPORT,
        0,
        "report.html",
    ),
    Row(
        "records: markup in names",
        run(
            {"id": MARKUP, "source": MARKUP, "model": MARKUP, "clean": {"id": 1, "name": MARKUP}},
            {"id": "b", "model": "x"},
        ),
        REPORT,
        0,
        "report.html",
        lambda box: "<script>alert" not in _page(box) and "<img src=x" not in _page(box),
    ),
    Row(
        "records: markup in settings",
        run({}, settings=json.dumps({"settings": {"model": MARKUP}}).encode()),
        REPORT,
        0,
        "report.html",
        lambda box: "<script>alert" not in _page(box),
    ),
    Row(
        "records: ids that climb",
        run({"id": "../../../secret"}, {"id": "/etc"}),
        REPORT,
        0,
        "pictures that are not there",
    ),
    Row(
        "records: formulas",
        run({"id": FORMULA, "source": "@x", "model": "-1+1", "objective": "+x"}),
        "report run --export out/x.csv",
        0,
        "x.csv",
        lambda box: (
            not re.search('(^|,)"?[=@+-]', (box / "out" / "x.csv").read_text(), re.MULTILINE)
        ),
    ),
    Row(
        "records: none",
        lambda box: file("run/run.json", b"{}")(box),
        REPORT,
        2,
        "has no results.jsonl",
    ),
    Row(
        "settings: no JSON",
        run({}, settings=b"{"),
        REPORT,
        2,
        "run.json does not hold one JSON object",
    ),
    Row(
        "settings: a list",
        run({}, settings=b"[]"),
        REPORT,
        2,
        "run.json does not hold one JSON object",
    ),
    Row(
        "settings: of another version",
        run({}, settings=b'{"version": 99, "settings": "all"}'),
        REPORT,
        0,
        "report.html",
    ),
    Row("pictures: missing", run({}), REPORT, 0, "pictures that are not there of 1 image"),
    Row(
        "pictures: damaged",
        run({}, **{"images/a/panel.png": b"no", "images/a/adversarial.png": b""}),
        REPORT,
        0,
        "pictures that cannot be read of 1 image",
    ),
    Row(
        "pictures: claim 256 Mpixels",
        run({}, **{"images/a/panel.png": files.claiming("PNG", 16_000)}),
        REPORT,
        0,
        "pictures that cannot be read of 1 image",
    ),
    Row(
        "losses: no zip",
        run({}, **{"histories.npz": b"no"}),
        REPORT,
        0,
        "histories.npz, which cannot be read",
    ),
    Row(
        "losses: objects that run code",
        run({}, **{"histories.npz": _objects()}),
        REPORT,
        0,
        LEFT,
        lambda box: not (box / "ran").exists(),
    ),
    Row(
        "losses: cut short",
        run({}, **{"histories.npz": _objects()[:100]}),
        REPORT,
        0,
        "histories.npz, which cannot be read",
    ),
    Row(
        "transfer: of settings that are none",
        run({}, settings=b'{"settings": 3}'),
        "transfer run --models mini_vgg --out out",
        2,
        "does not say where the patches lie",
    ),
    Row(
        "transfer: of missing pictures",
        run({}),
        "transfer run --models mini_vgg --out out",
        2,
        "adversarial.png",
    ),
    Row("verify: of missing pictures", run({}), "verify --run run", 2, "run.json"),
    Row(
        "resume: another version's settings",
        lambda box: [good(box), file("out/run.json", b'{"settings": 3}')(box)],
        "attack good.png --model mini_vgg --steps 1 --out out --resume",
        2,
        "not a run's settings",
    ),
    Row(
        "two writers",
        lambda box: [good(box), (box / "out").mkdir(), _held(box / "out" / ".lock")],
        "attack good.png --model mini_vgg --steps 1 --out out",
        2,
        "another process is writing to out",
    ),
]


def _held(path: Path) -> FileLock:
    lock = FileLock(path)
    lock.acquire()
    return lock


# ---------------------------------------------------------------- manifests, classes, masks

LIST = ATTACK.format("x.csv")
BEFORE = "attack good.png --model mini_vgg --steps 1 --out out "


def listed(kind: str, text: str | bytes, status: int, words: str) -> Row:
    """A manifest beside a picture `x.png` that is none."""

    def write(box: Path) -> None:
        file("x.png", b"no")(box)
        file("x.csv", text if isinstance(text, bytes) else text.encode())(box)

    return Row(f"manifest: {kind}", write, LIST, status, words)


LISTS = [
    listed("a field of 200 kB", "path\n" + "a" * 200_000, 2, "x.csv, line 2: "),
    listed("zero bytes", "path\na\0b.png\n", 1, "'a\\x00b.png' cannot be read"),
    listed("UTF-16", "path\nx.png\n".encode("utf-16"), 2, "x.csv, line 1: this is not UTF-8"),
    listed("a byte order mark", "\ufeffpath\nx.png\n", 1, NO_IMAGE),
    listed("paths that climb", "path\n../../../../../etc/passwd\n", 1, NO_IMAGE),
    listed("a quote that never ends", 'path\n"x.png\n' + "y\n" * 1000, 2, "x.csv, line 2: "),
    listed(
        "a label of 1 MB in quotes",
        f'path,label\nx.png,"{"y" * 100_000}"\n',
        1,
        "x.csv, line 2: there is no class 'yyy",
    ),
    listed(
        "labels that are none", "path,label\nx.png,-1\n", 1, "x.csv, line 2: there is no class '-1'"
    ),
    listed(
        "a target of 4,000 digits",
        f"path,target\nx.png,{'9' * 4000}\n",
        1,
        "x.csv, line 2: there is no class",
    ),
    listed("one line a million times", "path\n" + "x.png\n" * 10**5, 1, ONE),
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
        lambda box: [good(box), file("m.png", b"no")(box)],
        BEFORE + "--mask m.png",
        2,
        NO_IMAGE,
    ),
    Row(
        "mask: black",
        lambda box: [good(box), file("m.png", encode(small() * 0, "PNG"))(box)],
        BEFORE + "--mask m.png",
        2,
        "the mask is all black or clear",
    ),
    Row(
        "mask: claims 256 Mpixels",
        lambda box: [good(box), file("m.png", files.claiming("PNG", 16_000))(box)],
        BEFORE + "--mask m.png",
        2,
        PIXELS,
    ),
    Row(
        "mask: of another size",
        lambda box: [good(box), file("m.png", encode(picture(), "PNG"))(box)],
        BEFORE + "--mask m.png",
        0,
        "1 images, 0 failed",
    ),
]

# ---------------------------------------------------------------- numbers and surroundings

NUMBERS = {
    "--seed -1": "--seed is -1",
    f"--seed {ABSURD}": "--seed is 1",
    "--batch 0": "--batch is 0",
    "--batch -3": "--batch is -3",
    f"--batch {ABSURD}": "--batch is 1",
    "--checkpoint-every nan": "--checkpoint-every is nan",
    "--checkpoint-every inf": "--checkpoint-every is inf",
    "--checkpoint-every -1": "--checkpoint-every is -1",
    "--steps 0": "steps is 0",
    f"--steps {ABSURD}": "steps is 1",
    "--learning-rate nan": "the learning rate is nan",
    "--learning-rate inf": "the learning rate is inf",
    "--ce-weight nan": "ce_weight is nan",
    "--ce-weight inf": "ce_weight is inf",
    "--ratio nan": "the ratio is nan",
    f"--size {ABSURD}": "does not lie inside an image",
    f"--position {ABSURD},0": "does not lie inside an image",
    "--frame -1": "the frame is -1 pixels wide",
    "--linf 256": "the bound is 256 levels",
    "--shard 0/0": "the shard '0/0' is not I/N",
    "--distributed here:99999999,1,5": "--distributed",
}
OTHERS = {
    "transfer run --models mini_vgg --images 0": "--images is 0",
    "transfer run --models mini_vgg --defences jpeg-0": "jpeg-0",
    "transfer run --models mini_vgg --defences blur-nan": "blur-nan",
    "bench --repeats 0": "--repeats is 0",
    f"bench --repeats {ABSURD}": "--repeats is 1",
    f"bench --batches {ABSURD}": "--batches",
    "bench --sizes 0": "--sizes is '0'",
    "verify mini_vgg --steps -1": "steps is -1",
    f"verify mini_vgg --steps {ABSURD}": "steps is 1",
    "verify mini_vgg --limit 0": "--limit is 0",
    f"explain good.png --model mini_vgg --label {ABSURD} --out out": "there is no class",
}
OPTIONS = [
    *(Row(f"option: {o[:40]}", good, BEFORE + o, 2, words) for o, words in NUMBERS.items()),
    *(
        Row(f"command: {c[:60]}", lambda box: [good(box), run({})(box)], c, 2, words)
        for c, words in OTHERS.items()
    ),
]

NOT_ASCII = "sch\u00f6n \u6f22\u5b57.png"
SURROUNDINGS = [
    Row(
        "a terminal of ASCII",
        file(NOT_ASCII, b"no"),
        f"attack '{NOT_ASCII}' --model mini_vgg --steps 1 --out out",
        1,
        "sch\\xf6n",
        environment={"PYTHONIOENCODING": "ascii"},
    ),
    Row(
        "no home, and a user without a name",
        good,
        BEFORE,
        2,
        "set GCPATCH_HOME",
        environment={"HOME": None, "GCPATCH_HOME": None, "XDG_CACHE_HOME": None},
        under=STRANGER,
    ),
    Row(
        "a cache that others may write to",
        lambda box: [good(box), _open_cache(box)],
        BEFORE,
        0,
        "1 images, 0 failed",
        lambda box: not [*(box / "home" / "programs").iterdir()],
        environment={"GCPATCH_HOME": "{box}/home", "JAX_COMPILATION_CACHE_DIR": None},
    ),
    Row("a full disk", good, BEFORE, 1, "No space left on device", environment={}, under=FULL),
    Row(
        "a folder that nobody may write to",
        lambda box: [good(box), (box / "out").mkdir(0o555)],
        BEFORE,
        2,
        "cannot write to the folder out",
        environment={},
        under=STRANGER,
    ),
]


def _open_cache(box: Path) -> None:
    (box / "home" / "programs").mkdir(parents=True)
    (box / "home" / "programs").chmod(0o777)


ROWS = [*ARCHIVES, *PICTURES, *CHECKPOINTS, *RUNS, *LISTS, *OPTIONS, *SURROUNDINGS]
