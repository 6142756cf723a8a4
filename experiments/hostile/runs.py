"""Folders of runs that were tampered with."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from experiments.hostile import files
from experiments.hostile.rows import Row, Runs, both, file, good, nothing_ran

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
) -> Callable[[Path], Any]:
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
    np.savez(stream, **{"a/total": np.array([Runs()])}, allow_pickle=True)
    return stream.getvalue()


def _held(box: Path) -> FileLock:
    (box / "out").mkdir()
    lock = FileLock(box / "out" / ".lock")
    lock.acquire()
    return lock


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
        both(
            lambda box: (box / "out").mkdir(),
            run({"id": FORMULA, "source": "@x", "model": "-1+1", "objective": "+x"}),
        ),
        "report run --out out --export out/x.csv",
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
        nothing_ran,
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
    Row(
        "verify: of missing pictures",
        run({}),
        "verify --run run",
        2,
        "lacks what an attack records",
    ),
    Row(
        "resume: another version's settings",
        both(good, file("out/run.json", b'{"settings": 3}')),
        "attack good.png --model mini_vgg --steps 1 --out out --resume",
        2,
        "not a run's settings",
    ),
    Row(
        "two writers",
        both(good, _held),
        "attack good.png --model mini_vgg --steps 1 --out out",
        2,
        "another process is writing to out",
    ),
]
