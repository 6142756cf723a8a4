"""Several devices and several processes give the records of one device."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gcpatch.data import images

ROOT = Path(__file__).parents[2]
QUICK = os.environ.get("XLA_FLAGS", "")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    for i, picture in enumerate(pixels):
        images.write_png(folder / f"photo{i}.png", picture)
    return folder


def attack(photos, out, *options, devices=1):
    """A process that attacks on so many simulated devices."""
    environment = os.environ | {
        "XLA_FLAGS": f"{QUICK} --xla_force_host_platform_device_count={devices}",
        "NPROC": "8",  # threads, which decide how XLA parts its sums
        "GCPATCH_HOME": str(photos.parent / "home"),  # compiled programs are shared
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "gcpatch", "attack", str(photos), "--model", "mini_vgg"]
    options = ("--steps", "3", "--batch", "1", "--out", str(out), *options)
    return subprocess.Popen(
        [*command, *options],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finished(process):
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 0, text


def records(*runs):
    lines = [line for run in runs for line in (run / "results.jsonl").read_text().splitlines()]
    return sorted(map(json.loads, lines), key=lambda record: record["id"])


@pytest.fixture(scope="module")
def alone(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "alone"
    finished(attack(photos, out))
    return out


def same_runs(one, other):
    assert records(one) == records(other)
    for path in one.glob("images/*/adversarial.png"):
        assert path.read_bytes() == (other / path.relative_to(one)).read_bytes()
    assert len(records(one)) == 6
    assert all(record["pixels_changed_share"] > 0 for record in records(one))


def test_eight_devices(photos, alone, tmp_path):
    finished(attack(photos, tmp_path / "eight", devices=8))
    same_runs(alone, tmp_path / "eight")


def test_two_devices_in_the_near_field(photos, tmp_path):
    near = ("--reach", "0", "--size", "16", "--steps", "24")  # refreshes after 20 at most
    for devices in (1, 2):
        finished(attack(photos, tmp_path / f"{devices}", *near, devices=devices))
    same_runs(tmp_path / "1", tmp_path / "2")
    assert all(record["reach"]["refreshes"] > 1 for record in records(tmp_path / "1"))


def test_two_processes(photos, alone, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        attack(photos, tmp_path / "two", "--distributed", f"127.0.0.1:{port},2,{i}")
        for i in range(2)
    ]
    for process in processes:
        finished(process)
    parts = [tmp_path / "two" / f"part-{i}-of-2" for i in (1, 2)]
    assert [len(records(part)) for part in parts] == [3, 3]
    assert records(*parts) == records(alone)
