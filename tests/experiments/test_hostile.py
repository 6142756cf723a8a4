"""Hostile inputs, each as the table of `experiments.hostile` has it."""

import shlex

import pytest

from experiments.hostile.measure import Answer, changes, contents, faults, workplace
from experiments.hostile.table import ROWS
from gcpatch import cli

ALONE = [row for row in ROWS if row.environment is not None or row.under]
TOGETHER = [row for row in ROWS if row not in ALONE]


@pytest.mark.parametrize("row", TOGETHER, ids=lambda row: row.kind)
def test_what_is_answered(row, tmp_path, monkeypatch, capfd):
    box = workplace(tmp_path)
    kept = row.write(box)
    before = contents(tmp_path, box / "out")
    monkeypatch.chdir(box)
    monkeypatch.setenv("GCPATCH_HOME", str(box / "out" / "home"))
    try:
        status = cli.main(shlex.split(row.command))
    except SystemExit as end:
        status = end.code
    del kept
    out, err = capfd.readouterr()
    left = changes(before, contents(tmp_path, box / "out"))
    text = out + err
    answer = Answer(status, text, 0.0, 0, left, row.holds(box))
    assert list(faults(row, answer)) == [], text
    if status == 2:
        assert len(err.splitlines()) == 1 and not out
