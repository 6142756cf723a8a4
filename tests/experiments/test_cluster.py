"""The job for Slurm, with stand-ins for Slurm's commands."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import experiments
import gcpatch
from gcpatch.data.images import write_png

JOB = Path(experiments.__file__).parent / "cluster" / "slurm.sbatch"
STANDINS = {
    "gcpatch": f'exec {sys.executable} -m gcpatch "$@"',
    "srun": '[ -z "${STATUS:-}" ] || exit "$STATUS"; exec "$@"',
    "sbatch": 'echo "$@" >> "$SAID"; echo 7',
    "scontrol": 'echo "$@" >> "$SAID"',
}

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")


@pytest.fixture
def job(tmp_path):
    """Runs the job's script; returns the process."""
    for name, text in STANDINS.items():
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def run(*arguments, **known):
        more = {"PATH": path, "SAID": str(tmp_path / "said"), "SHARDS": "2"} | known
        command = ["bash", str(JOB), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | more)

    return run


def test_by_hand_it_submits_the_parts_and_what_merges_them(job, tmp_path):
    assert job("photos/", "runs/my hide", "--model", "vgg19").returncode == 0
    parts, merged = (tmp_path / "said").read_text().splitlines()
    assert parts == f"--parsable --array=1-2 {JOB} photos/ runs/my hide --model vgg19"
    assert "--dependency=afterany:7" in merged
    assert merged.endswith("--wrap=gcpatch report runs/my\\ hide")


def test_a_part_whose_time_is_up_is_queued_again(job, tmp_path):
    known = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "STATUS": "143"}
    assert job("photos/", "runs/hide", **known).returncode == 143
    assert (tmp_path / "said").read_text() == "requeue 7_2\n"


@pytest.mark.slow
def test_its_parts_make_one_run(job, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    (tmp_path / "photos").mkdir()
    for i, picture in enumerate(pixels):
        write_png(tmp_path / "photos" / f"{i}.png", picture)
    how = ("--model", "mini_resnext", "--steps", "2")
    for part in ("1", "2"):
        done = job(tmp_path / "photos", tmp_path / "run", *how, SLURM_ARRAY_TASK_ID=part)
        assert done.returncode == 0, done.stderr
    assert len(gcpatch.read_run(tmp_path / "run")) == 3
