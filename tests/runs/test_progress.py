import json
import os
import signal
import sys
import time

import numpy as np
import pytest

from gcpatch import cli
from gcpatch.data import images
from gcpatch.runs import progress
from gcpatch.runs.progress import ConsoleProgress


def record(identity, error=None, both=None):
    return {"id": identity, "error": error, "fooled_class": True, "fooled_both": both}


def events(capsys):
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_log_is_json_lines(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    with ConsoleProgress(5, 2, log=True) as watch:
        watch.record(record("a", both=False))
        watch.record(record("b", error="gone"))
        watch.start -= 10
        watch.steps(40)
        watch.note("look here")
    found = events(capsys)
    assert [line["event"] for line in found] == [
        "record",
        "record",
        "note",
        "status",
        "note",
        "end",
    ]
    assert (found[1]["id"], found[1]["error"], found[2]["text"]) == ("b", "gone", "b: gone")
    status = found[3]
    assert (status["done"], status["failed"], status["left"]) == (1, 1, 1)
    assert status["image_steps_per_second"] == pytest.approx(4, rel=0.2)
    assert status["seconds_left"] == pytest.approx(5, rel=0.2)
    assert status["memory_bytes"] > 10_000_000


def test_a_bar_counts_what_an_earlier_run_did(capsys):
    with ConsoleProgress(5, 2) as watch:
        watch.record(record("a"))
        watch.record(record("b", error="gone"))
        watch.steps(3)
    text = capsys.readouterr().err
    assert "b: gone" in text
    assert "4/5" in text
    assert "1 failed" in text
    assert len(text.splitlines()) == 2  # no terminal: one line for the bar, one for the image


def test_a_bar_says_that_it_compiles(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with ConsoleProgress(5) as watch:
        before = str(watch.bar)
        watch.steps(3)
        assert "compiling" in before
        assert "image-steps/s" in str(watch.bar) and "compiling" not in str(watch.bar)


def test_without_a_terminal_there_is_a_line_a_minute(capsys, monkeypatch):
    with ConsoleProgress(5) as watch:
        watch.steps(3)
        watch.told -= progress.CALM_SECONDS
        watch.steps(3)
        watch.steps(3)
    assert [line[:20] for line in capsys.readouterr().err.splitlines()] == [
        "attacking: 0/5 image"
    ] * 2


def test_signals(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with ConsoleProgress(2, log=True) as watch, watch.signals():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert watch.stopped is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch.stopped == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before
    status, stopping, _ = events(capsys)
    assert json.loads(status["text"])["left"] == 2
    assert stopping["text"].startswith("SIGTERM: stopping")


def test_a_budget_ends_a_run_like_a_signal_and_never_a_second_time(capsys):
    with ConsoleProgress(2, log=True) as watch, watch.signals(time.monotonic() + 0.05):
        assert watch.stopped is None
        time.sleep(0.1)
        assert watch.stopped == signal.SIGALRM
    with ConsoleProgress(2, log=True) as watch, watch.signals(time.monotonic() + 0.05):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        assert watch.stopped == signal.SIGTERM
    with ConsoleProgress(2, log=True) as watch, watch.signals(time.monotonic() + 60):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    said = [line["text"] for line in events(capsys) if line["event"] == "note"]
    assert [text.partition(":")[0] for text in said] == ["the budget is spent", "SIGTERM"]


@pytest.mark.parametrize(
    "number, code, said",
    [
        (signal.SIGTERM, 143, "stopped"),
        (signal.SIGINT, 130, "stopped"),
        (None, 142, "the budget is spent"),
    ],
)
def test_a_stopped_attack_says_how_to_go_on(tmp_path, capsys, monkeypatch, number, code, said):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    images.write_png(tmp_path / "photo.png", pixels)
    options = ["--model", "mini_vgg", "--steps", "60", "--learning-rate", "0.001"]
    command = ["attack", str(tmp_path / "photo.png"), *options, "--out", str(tmp_path / "run")]
    steps, taken = ConsoleProgress.steps, []

    def interrupted(watch, count):
        steps(watch, count)
        taken.append(count)
        if number is None:
            time.sleep(1)
        else:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(ConsoleProgress, "steps", interrupted)
    assert cli.main([*command, *([] if number else ["--budget", "1"])]) == code
    line = f"gcpatch attack: {said}; go on with the same command and --resume\n"
    assert capsys.readouterr().err.endswith(line)
    assert not (tmp_path / "run/results.jsonl").read_text()
    monkeypatch.undo()
    monkeypatch.setattr(ConsoleProgress, "steps", lambda watch, count: taken.append(count))
    assert cli.main([*command, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 1
    (line,) = (tmp_path / "run/results.jsonl").read_text().splitlines()
    assert json.loads(line)["steps"] == sum(taken)  # also those before the end
