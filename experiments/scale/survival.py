"""A campaign that is killed again and again gives what an uninterrupted one gives, byte for byte.

    python -m experiments.scale.survival --scenes 2000 --kills 10

Draws scenes as PNG files and attacks them twice with the command line: once in one go, once killed
by SIGKILL at random moments and taken up with --resume each time. Then it compares the records and
every file of every image.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from gcpatch.data import images, scenes

SEED, SIDE = 11, 224


def draw(folder: Path, count: int) -> Path:
    """A folder of scenes as PNG files; those that are there already stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in tqdm(range(0, count, 50), desc="drawing", unit=" x 50 scenes"):
        paths = [folder / f"scene-{i:05d}.png" for i in range(start, min(start + 50, count))]
        if not all(path.exists() for path in paths):
            drawn = scenes.draw_batch(SEED, len(paths), size=SIDE, start=start)
            for path, image in zip(paths, np.asarray(drawn.image), strict=True):
                images.write_png(path, np.rint(image * 255).astype(np.uint8))
    return folder


def command(photos: Path, out: Path, network: str, steps: int, *more: str) -> list[str]:
    """The attack's command line."""
    return [
        sys.executable,
        "-m",
        "gcpatch",
        "attack",
        str(photos),
        "--model",
        network,
        "--steps",
        str(steps),
        "--out",
        str(out),
        "--checkpoint-every",
        "2",
        "--log-json",
        *more,
    ]


def lines(run: Path) -> list[str]:
    """The records' lines so far, the last of which may be torn."""
    path = run / "results.jsonl"
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def kill_and_resume(photos: Path, out: Path, network: str, steps: int, kills: int, count: int):
    """Runs the campaign, killing it at random moments; prints when."""
    chance = random.Random(SEED)
    moments = sorted(chance.sample(range(count), kills))
    for number, moment in enumerate(moments, 1):
        process = start(photos, out, network, steps)
        while process.poll() is None and len(lines(out)) < moment:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 2))
        if process.poll() is not None:
            raise SystemExit(f"the campaign ended by itself with status {process.returncode}")
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(f"kill {number}: after {len(lines(out))} records", flush=True)
    if status := start(photos, out, network, steps).wait():
        raise SystemExit(f"the campaign ended with status {status}")


def start(photos: Path, out: Path, network: str, steps: int) -> subprocess.Popen:
    """A process that begins or resumes the campaign."""
    return subprocess.Popen(
        command(photos, out, network, steps, "--resume"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def differences(first: Path, second: Path) -> list[str]:
    """What differs between two runs: records that are missing, twice or other, and files."""
    found = []
    records = [[json.loads(line) for line in lines(run)] for run in (first, second)]
    ids = [[record["id"] for record in run] for run in records]
    for run, names in zip((first, second), ids, strict=True):
        twice = len(names) - len(set(names))
        found += [f"{run}: {twice} records are there twice"] if twice else []
    one, other = ({record["id"]: record for record in run} for run in records)
    found += [f"the record of {i}" for i in {*one, *other} if one.get(i) != other.get(i)]
    files, others = (
        {path.relative_to(run): path for path in run.glob("images/**/*") if path.is_file()}
        for run in (first, second)
    )
    found += [f"{name} is in one run only" for name in files.keys() ^ others.keys()]
    return found + [
        str(name)
        for name in files.keys() & others.keys()
        if files[name].read_bytes() != others[name].read_bytes()
    ]


def main() -> int:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--network", default="mini_vgg")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("runs/survival"))
    options = parser.parse_args()
    photos = draw(options.out / f"scenes-{options.scenes}", options.scenes)
    whole, parts = (options.out / name for name in ("whole", "parts"))
    began = time.monotonic()
    if status := start(photos, whole, options.network, options.steps).wait():
        raise SystemExit(f"the campaign ended with status {status}")
    print(f"in one go: {time.monotonic() - began:.0f} s", flush=True)
    began = time.monotonic()
    kill_and_resume(photos, parts, options.network, options.steps, options.kills, options.scenes)
    print(f"with {options.kills} kills: {time.monotonic() - began:.0f} s")
    found = differences(whole, parts)
    files = sum(path.is_file() for path in parts.glob("images/**/*"))
    print("\n".join(found[:20]))
    print(
        f"{len(lines(parts))} records and {files} files, {len(found)} differences "
        f"(jax {jax.__version__}, {jax.devices()[0].device_kind})"
    )
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
