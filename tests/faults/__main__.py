"""Plants each deliberate fault in a copy of the tree and says which test noticed it.

    python -m tests.faults [WORDS]     # only the faults whose area or name has these words

Exit status 1 where a fault went unnoticed. Takes a quarter of an hour on two cores.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults.planted import FAULTS, Fault

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")


def plant(fault: Fault, tree: Path) -> str:
    """The file's text without the fault; ValueError where it has no such place, or several."""
    path = tree / fault.path
    text = path.read_text("utf-8")
    if text.count(fault.old) != 1:
        raise ValueError(f"{fault.path} has {text.count(fault.old)} times: {fault.old}")
    path.write_text(text.replace(fault.old, fault.new), "utf-8")
    return text


def noticed(fault: Fault, tree: Path) -> str | None:
    """The test that fails with the fault, None where all pass."""
    healthy = plant(fault, tree)
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", *fault.tests.split()]
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    finally:
        (tree / fault.path).write_text(healthy, "utf-8")
    if done.returncode == 0:
        return None
    failed = re.search(r"^(FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if done.returncode != 1 or failed is None:  # nothing was tested, so nothing was noticed
        raise RuntimeError(f"{fault.name}: {(done.stdout + done.stderr)[-1000:]}")
    return failed[2]


def main(words: list[str]) -> int:
    """Plants the faults that these words name, or all; 1 where one went unnoticed."""
    chosen = [
        fault for fault in FAULTS if all(word in f"{fault.area} {fault.name}" for word in words)
    ]
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        for fault in chosen:
            found = noticed(fault, tree)
            missed += found is None
            print(f"{fault.area}: {fault.name}: {found or 'NOT NOTICED'}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} faults noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
