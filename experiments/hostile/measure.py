"""A hostile input before the command line: what it answers, takes, and leaves behind."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.hostile.rows import Row

MOST_SECONDS, MOST_BYTES = 10, 2_000_000_000
PATIENCE = 120  # seconds until a command that hangs is killed
CHILD = """
import json, resource, sys, time
import jax, optax, orbax.checkpoint
from gcpatch import cli
from gcpatch.report import page
from gcpatch.runs import campaign
if "convert" in sys.argv: import convert.torchvision
start = time.monotonic()
try:
    sys.exit(cli.main(sys.argv[2:]))
finally:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with open(int(sys.argv[1]), "w") as out:
        json.dump((time.monotonic() - start, most), out)
"""
ROOT = Path(__file__).parents[2]


class Answer(NamedTuple):
    """What a command answered: exit status, all that it wrote to the terminal, what it took, which
    files it left or changed outside of `out`, and whether what must hold afterwards does."""

    status: int | None
    text: str
    seconds: float
    bytes: int
    left: list[str]
    holds: bool


def workplace(folder: Path) -> Path:
    """The working folder of a command, so deep that what climbs out of it stays in `folder`."""
    box = folder / "a" / "b" / "box"
    box.mkdir(parents=True)
    return box


def contents(folder: Path, without: Path) -> dict[str, str]:
    """What is in a folder: of every file but those below `without` its kind, or its digest."""
    found = {}
    for root, folders, files in os.walk(folder):
        if Path(root) == without.parent and without.name in folders:
            folders.remove(without.name)
        for name in [*folders, *files]:
            path = os.path.join(root, name)
            plain = os.path.isfile(path) and not os.path.islink(path) and os.access(path, os.R_OK)
            digest = str(os.lstat(path).st_size)
            if plain and os.path.getsize(path) < 2**27:
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[path] = digest if name in files else "folder"
    return found


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """The files that are new, gone or other."""
    return [name for name in before | after if before.get(name) != after.get(name)]


def measure(row: Row, folder: Path, programs: Path) -> Answer:
    """Runs a row's command in a process of its own.

    Args:
        row: what to run.
        folder: where, which is empty.
        programs: where JAX keeps what it compiles.
    """
    box = workplace(folder)
    kept = row.write(box)
    before = contents(folder, box / "out")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GCPATCH_HOME": str(box / "out" / "home")}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(programs)}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    for name, value in (row.environment or {}).items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value.format(box=box)
    read, write = os.pipe()
    with subprocess.Popen(
        [*row.under, sys.executable, "-c", CHILD, str(write), *shlex.split(row.command)],
        cwd=box,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[write],
    ) as process:
        os.close(write)
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
    with open(read) as file:
        took = file.read()
    seconds, size = json.loads(took) if took else (float(PATIENCE), 0)
    left = changes(before, contents(folder, box / "out"))
    del kept
    text = output.decode("utf-8", "backslashreplace")
    return Answer(process.returncode, text, seconds, size, left, row.holds(box))


def faults(row: Row, answer: Answer) -> Iterator[str]:
    """What is wrong with an answer."""
    if answer.status != row.status:
        yield f"exit status {answer.status} instead of {row.status}"
    if row.words not in answer.text:
        yield f"does not say {row.words!r}"
    if "Traceback" in answer.text:
        yield "shows a traceback"
    if any(ord(letter) < 32 and letter not in "\n\t\r" for letter in answer.text):
        yield "sends control characters to the terminal"
    if answer.left:
        yield f"leaves or changes {answer.left}"
    if not answer.holds:
        yield "leaves what must not be"
    if answer.seconds > MOST_SECONDS:
        yield f"takes {answer.seconds:.1f} s"
    if answer.bytes > MOST_BYTES:
        yield f"takes {answer.bytes / 1e9:.1f} GB"
