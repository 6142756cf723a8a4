"""gcpatch.runs.board: what TensorBoard is told."""

import sys

import numpy as np
import pytest

from gcpatch.data.images import write_png
from gcpatch.errors import UserError
from gcpatch.runs import progress
from gcpatch.runs.board import Board
from gcpatch.runs.progress import ConsoleProgress

RECORD = {
    "id": "cat-0",
    "error": None,
    "fooled_class": True,
    "fooled_explanation": False,
    "fooled_both": None,
    "loss": {"total": 2.0, "cross_entropy": 1.5},
}


def test_losses_rates_and_panels(tmp_path):
    (tmp_path / "images" / "cat-0").mkdir(parents=True)
    write_png(tmp_path / "images" / "cat-0" / "panel.png", np.zeros((8, 8, 3), np.uint8))
    board = Board(tmp_path / "board", pictures=tmp_path / "images")
    with ConsoleProgress(3, log=True, board=board) as watch:
        watch.record(RECORD)
        watch.record(RECORD | {"id": "without a panel"})
        watch.record({"id": "gone", "error": "it is no image"})
        watch.steps(10)
    (file,) = (tmp_path / "board").iterdir()
    told = file.read_bytes()
    rates = ("rate/fooled_class", "rate/fooled_explanation", "loss/total", "loss/cross_entropy")
    for name in (*progress.SCALARS, *rates, "cat-0"):
        assert name.encode() in told, name
    for name in ("rate/fooled_both", "without a panel", "gone"):
        assert name.encode() not in told, name


def test_without_tensorboardx(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"pip install 'gcpatch\[tensorboard\]'"):
        Board(tmp_path)
