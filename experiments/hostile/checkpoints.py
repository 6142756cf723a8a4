"""Weights that run code, are not there, or are no weights."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.hostile.rows import ABSURD, Row, Runs, both, file, good, nothing_ran

CONVERT = "convert mini_vgg --weights x.pth --out out/c"


def weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    """Writes `x.pth`: what `change` makes of a state_dict that is right."""

    def write(box: Path) -> None:
        import torch

        from convert.torchvision import to_torch
        from gcpatch.networks import checkpoints

        state = to_torch(checkpoints.load("mini_vgg"))
        torch.save(change(state), box / "x.pth")

    return write


def _wrong_checksum(box: Path) -> None:
    weights(dict)(box)
    data = bytearray((box / "x.pth").read_bytes())
    data[len(data) // 2] ^= 1
    (box / "x.pth").write_bytes(data)


def _checkpoint(**changes: Any) -> Callable[[Path], Any]:
    """Writes the folder `c` with a manifest of which some fields are other."""

    def write(box: Path) -> None:
        from gcpatch.networks import checkpoints

        manifest = checkpoints.save(checkpoints.load("mini_vgg"), box / "c", "scenes") | changes
        (box / "c" / "manifest.json").write_text(json.dumps(manifest))

    return both(good, write)


OURS = "explain good.png --model mini_vgg --weights c --out out"
CHECKPOINTS = [
    Row(
        "weights: a pickle that runs code",
        weights(lambda _: Runs()),
        CONVERT,
        2,
        "could run code and is not read",
        nothing_ran,
    ),
    Row(
        "weights: a bare pickle that runs code",
        file("x.pth", pickle.dumps(Runs())),
        CONVERT,
        2,
        "x.pth",
        nothing_ran,
    ),
    Row("weights: a bare pickle", file("x.pth", pickle.dumps({"a": [1.0]})), CONVERT, 2, "x.pth"),
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
        "checkpoint: of a newer format", _checkpoint(format=ABSURD), OURS, 2, "install a newer one"
    ),
    Row("checkpoint: files elsewhere", _checkpoint(files={"../../x": "0"}), OURS, 2, "is damaged"),
    Row("checkpoint: another digest", _checkpoint(digest="0"), OURS, 2, "is damaged"),
]
