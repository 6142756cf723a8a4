"""Each walk, from its first line to its last, with few images and steps."""

import subprocess
import sys

import pytest

WALKS = {
    "robust_accuracy": (("--count", "2", "--steps", "10"), "hide: accuracy "),
    "fine_tuned": (("--count", "3"), "$ gcpatch explain "),
    "own_network": (("--count", "3", "--steps", "10"), "both processes say the same of "),
}


@pytest.mark.slow
@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_arrives(walk, tmp_path):
    options, said = WALKS[walk]
    command = [sys.executable, "-m", f"experiments.walks.{walk}", *options, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
