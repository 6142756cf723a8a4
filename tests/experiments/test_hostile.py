"""Hostile inputs, each as the table of `experiments.hostile` has it."""

import shlex
import subprocess

import pytest

from experiments.hostile.measure import Answer, changes, contents, faults, measure, workplace
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


def namespaces(row):
    """Whether this machine lets a command have a user, or a disk, of its own."""
    command = [*row.under, "true"] if row.under else ["true"]
    return subprocess.run(command, capture_output=True, cwd="/tmp").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("row", ALONE, ids=lambda row: row.kind)
def test_what_is_answered_by_a_process_of_its_own(row, tmp_path):
    if row.under[:1] == ("unshare",) and not namespaces(row._replace(under=row.under[:3])):
        pytest.skip("no user namespaces here")
    (tmp_path / "programs").mkdir()
    (tmp_path / "place").mkdir()
    answer = measure(row, tmp_path / "place", tmp_path / "programs")
    wrong = [fault for fault in faults(row, answer) if not fault.endswith(" s")]  # not compiled yet
    assert wrong == [], answer.text


def test_each_kind_is_there_once():
    assert len({row.kind for row in ROWS}) == len(ROWS) > 100


def test_what_is_wrong_with_an_answer_is_seen(tmp_path):
    row = ROWS[0]
    fine = Answer(row.status, row.words, 1.0, 1, [], True)
    assert list(faults(row, fine)) == []
    for change in (
        {"status": 0},
        {"text": "something else"},
        {"text": f"{row.words}\nTraceback (most recent call last)"},
        {"text": f"{row.words}\x1b[31m"},
        {"seconds": 10.5},
        {"bytes": 2_000_000_001},
        {"left": ["/etc/x"]},
        {"holds": False},
    ):
        assert len(list(faults(row, fine._replace(**change)))) == 1
    (tmp_path / "out").mkdir()
    before = contents(tmp_path, tmp_path / "out")
    (tmp_path / "out" / "x").touch()
    assert changes(before, contents(tmp_path, tmp_path / "out")) == []
    (tmp_path / "x").write_text("1")
    (left,) = changes(before, contents(tmp_path, tmp_path / "out"))
    assert left == str(tmp_path / "x")
