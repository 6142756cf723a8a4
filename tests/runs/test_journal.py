import json
import os
import subprocess
import sys

import numpy as np
import pytest

from gcpatch.attacks.settings import Attack
from gcpatch.attacks.step import Losses
from gcpatch.data import images
from gcpatch.report.records import ReportError
from gcpatch.report.summary import summarize
from gcpatch.runs.journal import Journal, RunError

SETTINGS = {"settings": {"model": "mini_vgg", "seed": 0}, "started": "now"}
HISTORY = Losses(*(np.arange(3, dtype=np.float32) + i for i in range(3)))


def record(identity, **values):
    return {"id": identity, "error": None, "fooled_class": True, "steps": 3} | values


def test_records_come_back_in_order_and_settings_are_written(tmp_path):
    journal = Journal(tmp_path / "run", SETTINGS)
    journal.append(record("b"))
    journal.append(record("a", error="no such file"))
    assert [found["id"] for found in journal.records()] == ["b", "a"]
    assert journal.done == {"b"}
    assert json.loads((tmp_path / "run/run.json").read_text()) == SETTINGS


def test_a_folder_with_a_run_is_refused_unless_resumed(tmp_path):
    Journal(tmp_path, SETTINGS).append(record("a"))
    with pytest.raises(RunError, match="holds a run already; go on with --resume"):
        Journal(tmp_path, SETTINGS)
    assert Journal(tmp_path, SETTINGS, resume=True).done == {"a"}


def test_a_run_of_gcpatch_0_1_is_taken_up(tmp_path):
    region = {"size": 64, "ratio": 1.0, "position": "top-right"}
    Journal(tmp_path, {"settings": {"patch": region, "attack": {"steps": 3}}}).append(record("a"))
    attack = {"steps": 3, "layer": None, "explainer": "grad-cam"}
    now = {"settings": {"patch": {"kind": "patch"} | region, "attack": attack}}
    assert Journal(tmp_path, now, resume=True).done == {"a"}
    other = {"settings": {"patch": {"kind": "patch"} | region, "attack": attack | {"layer": "x"}}}
    with pytest.raises(RunError, match=r"settings: attack\.layer was None and is 'x'$"):
        Journal(tmp_path, other, resume=True)


def test_a_run_that_was_not_balanced_is_taken_up_by_the_same_attack_alone(tmp_path):
    plain = Attack(balance=False, ce_weight=0.05).describe()
    later = ("balance", "ring", "reach", "restart", "layer", "explainer")
    old = {name: value for name, value in plain.items() if name not in later}
    Journal(tmp_path, {"settings": {"attack": old}}).append(record("a"))

    def again(**changes):
        now = {"settings": {"attack": Attack(**changes).describe()}}
        return Journal(tmp_path, now, resume=True).done

    said = (
        "attack.balance was False and is True; attack.ce_weight was 0.05 and is 3.0; "
        "attack.learning_rate was 0.1 and is None$"
    )
    with pytest.raises(RunError, match=said):
        again()
    with pytest.raises(RunError, match=r"settings: attack\.reach was 'exact' and is 'near'$"):
        again(balance=False, ce_weight=0.05, learning_rate=0.1, reach="near")
    assert again(balance=False, ce_weight=0.05, learning_rate=0.1) == {"a"}


def test_a_run_of_other_settings_says_what_differs(tmp_path):
    Journal(tmp_path, SETTINGS)
    other = {"settings": {"model": "mini_vgg", "seed": 1}}
    with pytest.raises(RunError, match=r"seed was 0 and is 1$"):
        Journal(tmp_path, other, resume=True)


def test_resuming_drops_a_torn_line_and_retries_failures(tmp_path):
    journal = Journal(tmp_path, SETTINGS)
    journal.append(record("a"))
    journal.append(record("b", error="gone"))
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write('{"id": "c", "err')
    journal.release()
    resumed = Journal(tmp_path, SETTINGS, resume=True)
    assert resumed.done == {"a"}
    resumed.append(record("b"))
    assert [found["id"] for found in resumed.records()] == ["a", "b"]


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path):
    journal = Journal(tmp_path, SETTINGS)
    with pytest.raises(RunError, match=f"another process is writing to {tmp_path}"):
        Journal(tmp_path, SETTINGS, resume=True)
    journal.release()
    assert Journal(tmp_path, SETTINGS, resume=True).done == set()


def test_a_line_that_is_no_record_is_named(tmp_path):
    journal = Journal(tmp_path, SETTINGS)
    journal.append(record("a"))
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write("[1, 2]\n")
    journal.release()
    with pytest.raises(ReportError, match=r"results.jsonl, line 2 is no record"):
        Journal(tmp_path, SETTINGS, resume=True)


def test_a_record_written_twice_is_kept_once(tmp_path):
    journal = Journal(tmp_path, SETTINGS)
    for steps in (1, 2):
        journal.append(record("a", steps=steps))
    journal.release()
    found = list(Journal(tmp_path, SETTINGS, resume=True).records())
    assert [line["steps"] for line in found] == [1]


def test_an_images_folder_appears_whole_or_not_at_all(tmp_path):
    journal = Journal(tmp_path, SETTINGS)

    def fail(folder):
        (folder / "adversarial.png").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        journal.store("a", fail, HISTORY)
    assert not (tmp_path / "images/a").exists()

    def write(folder):
        (folder / "adversarial.png").write_bytes(b"whole")
        return record("a")

    assert journal.store("a", write, HISTORY) == record("a")
    assert (tmp_path / "images/a/adversarial.png").read_bytes() == b"whole"
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["a"]


def test_close_gathers_histories_and_summary(tmp_path):
    journal = Journal(tmp_path, SETTINGS)
    journal.append(journal.store("a", lambda folder: record("a"), HISTORY))
    journal.append(record("b", error="gone"))
    summary = journal.close()
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert (summary["images"], summary["failed"], summary["steps"]) == (2, 1, 3)
    with np.load(tmp_path / "histories.npz") as histories:
        assert sorted(histories) == ["a/cross_entropy", "a/explanation", "a/total"]
        np.testing.assert_array_equal(histories["a/explanation"], [2, 3, 4])


def test_rates_are_over_the_records_that_have_a_verdict():
    found = summarize(
        [
            record("a", fooled_class=True, fooled_both=None),
            record("b", fooled_class=False, fooled_both=None),
            record("c", error="gone", fooled_class=None),
        ]
    )
    assert found["fooled_class"] == 0.5
    assert found["fooled_both"] is None


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write to the folder"):
        Journal(tmp_path / "file" / "run", SETTINGS)


def test_a_killed_process_lets_go_of_the_folder_and_its_drafts_are_swept(tmp_path):
    code = (
        "import os, pathlib, sys\n"
        "from gcpatch.runs.journal import Journal\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "journal = Journal(folder, {'settings': {'model': 'mini_vgg', 'seed': 0}})\n"
        "(folder / 'images' / '.0.draft').mkdir()\n"
        "(folder / '.1.draft').touch()\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    Journal(tmp_path, SETTINGS, resume=True)
    assert not list(tmp_path.rglob("*.draft"))


def test_an_images_files_are_on_the_disk_before_the_record_that_names_them(tmp_path, monkeypatch):
    """Replays the order of writes: after a power cut only what was brought to the disk is there."""
    journal = Journal(tmp_path, SETTINGS)
    events, sync, replace = [], os.fsync, os.replace

    def spy_sync(descriptor):
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    def spy_replace(source, to):
        events.append((str(source), str(to)))
        replace(source, to)

    monkeypatch.setattr(os, "fsync", spy_sync)
    monkeypatch.setattr(os, "replace", spy_replace)

    def write(folder):
        images.write_png(folder / "adversarial.png", np.zeros((4, 4, 3), np.uint8))
        return record("a")

    journal.append(journal.store("a", write, HISTORY))
    (named,) = [event for event in events if event[1] == str(tmp_path / "images" / "a")]
    before, after = events[: events.index(named)], events[events.index(named) + 1 :]
    assert {named[0], f"{named[0]}/adversarial.png", f"{named[0]}/history.npz"} <= set(before)
    assert after == [str(tmp_path / "images"), str(tmp_path / "results.jsonl")]


def test_settings_whose_attack_is_none_are_refused(tmp_path):
    Journal(tmp_path, {"settings": {"attack": "hide"}})
    with pytest.raises(RunError, match=r"run\.json is not a run's settings; choose another folder"):
        Journal(tmp_path, SETTINGS, resume=True)
