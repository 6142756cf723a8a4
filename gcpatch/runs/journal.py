"""A run's folder: settings, one record an image, pictures, histories, summary.

A record is appended only after the image's files are whole, and files appear under their names
only when they are whole and on the disk, so that a run can be stopped at any moment, even by a
power cut, and taken up again.

A folder belongs to one process, by a lock that ends with it: `flock` on Linux and macOS. On a
network file system without locks nothing keeps a second process out.
"""

import hashlib
import json
import os
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from gcpatch.attacks import regions
from gcpatch.attacks.step import Losses
from gcpatch.errors import UserError
from gcpatch.files import DRAFTS, atomic_directory, atomic_write, is_name
from gcpatch.report.export import flatten
from gcpatch.report.records import read_records
from gcpatch.report.summary import write_summary


class RunError(UserError):
    """A run's folder that cannot be used."""


def _with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """A run's settings, with what older ones left unsaid: kind of region, layer, colours, ..."""
    said = {"colormap": "jet"} | settings
    if "patch" in said:
        said["patch"] = {"kind": regions.kind_of(said["patch"])} | said["patch"]
    if "attack" in said:
        said["attack"] = _attack_with_defaults(said["attack"])
    return said


def _attack_with_defaults(said: dict[str, Any]) -> dict[str, Any]:
    """The same of an attack; what is not balanced had another rate of its own, of Adam."""
    own = said.get("optimizer") == "adam" and said.get("learning_rate") is None
    rate = {"learning_rate": 0.1} if own and "balance" not in said else {}
    unsaid = {"balance": False, "ring": 0, "reach": "exact", "restart": False}
    return unsaid | {"layer": None, "explainer": "grad-cam"} | said | rate


class Journal:
    """The folder of one run; its methods may be called from several threads.

    Args:
        folder: where the run is; made if it is not there.
        settings: what the run does, written to `run.json`.
        resume: whether to go on with a run that the folder holds.

    Raises:
        RunError: the folder cannot be written, is in use, holds a run and `resume` is not set, or
            holds a run of other settings; the message says which.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], *, resume: bool = False):
        self.folder = folder
        self.settings = dict(settings)
        self.done: set[str] = set()
        self.recorded: dict[str, str] = {}  # of what was there: what each record is of
        self._appending = threading.Lock()
        found = self.folder / "run.json"
        try:
            (self.folder / "images").mkdir(parents=True, exist_ok=True)
            self._hold()
            if found.exists():
                self._compare(found, resume)
                self._sweep()
            self.describe()
            self._rewrite(self._kept())
        except OSError as error:
            raise RunError(f"cannot write to the folder {folder}: {error.strerror}") from None

    def describe(self, **more: Any) -> None:
        """Writes `run.json`; `more` is said beside the settings, and not compared by `resume`."""
        self.settings |= more
        with atomic_write(self.folder / "run.json") as draft:
            draft.write_text(json.dumps(self.settings, indent=2))

    def _hold(self) -> None:
        """Keeps others out until `release`, or for as long as the journal lives."""
        self._lock = FileLock(self.folder / ".lock", thread_local=False)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise RunError(
                f"another process is writing to {self.folder}; wait for it or choose another folder"
            ) from None

    def release(self) -> None:
        """Lets go of the folder."""
        self._lock.release()

    def _compare(self, found: Path, resume: bool) -> None:
        if not resume:
            raise RunError(
                f"{self.folder} holds a run already; go on with --resume or choose another folder"
            )
        try:
            old = flatten(_with_defaults(json.loads(found.read_text())["settings"]))
        except (AttributeError, ValueError, KeyError, TypeError, RecursionError):
            raise RunError(f"{found} is not a run's settings; choose another folder") from None
        new = flatten(_with_defaults(json.loads(json.dumps(self.settings["settings"]))))
        differing = [
            f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
            for key in sorted({*old, *new})
            if old.get(key) != new.get(key)
        ]
        if differing:
            raise RunError(f"{self.folder} holds a run of other settings: {'; '.join(differing)}")

    def _sweep(self) -> None:
        """Removes what a kill left half written."""
        for folder in (self.folder, self.folder / "images"):
            for draft in folder.glob(DRAFTS):
                if draft.is_dir():
                    shutil.rmtree(draft, ignore_errors=True)
                else:
                    draft.unlink(missing_ok=True)

    def _kept(self) -> Iterator[str]:
        """The lines of the images that are done; those that failed are tried again."""
        for record in self.records():
            if not record.get("error") and record["id"] not in self.done:
                self.done.add(record["id"])
                asked = record.get("asked") or {}
                self.recorded[record["id"]] = fingerprint(
                    record.get("sha256"), asked.get("target"), asked.get("label")
                )
                yield json.dumps(record) + "\n"

    def _rewrite(self, lines: Iterable[str]) -> None:
        with atomic_write(self.folder / "results.jsonl") as draft, draft.open("w") as file:
            file.writelines(lines)

    def records(self) -> Iterator[dict[str, Any]]:
        """The records so far, as `read_records` does."""
        if (self.folder / "results.jsonl").exists():
            yield from read_records(self.folder)

    def forget(self, ids: set[str]) -> None:
        """Drops the records and then the files of images."""
        with self._appending:
            kept = (record for record in self.records() if record["id"] not in ids)
            self._rewrite(json.dumps(record) + "\n" for record in kept)
            self.done -= ids
        for identity in ids:
            shutil.rmtree(self.folder / "images" / identity, ignore_errors=True)

    def append(self, record: dict[str, Any]) -> None:
        """Writes one record behind the others, through to the disk."""
        with self._appending, open(self.folder / "results.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
            if not record.get("error"):
                self.done.add(record["id"])

    def store(
        self,
        identity: str,
        write: Callable[[Path], dict[str, Any]],
        history: Losses | None = None,
    ) -> dict[str, Any]:
        """Puts the folder of an image's files in place, whole; returns what `write` returns."""
        with atomic_directory(self.folder / "images" / identity) as draft:
            record = write(draft)
            if history is not None:
                np.savez(draft / "history.npz", **history._asdict())
        return record

    def close(self) -> dict[str, Any]:
        """Gathers the histories, writes the summary and returns it; lets go of the folder."""
        with (
            atomic_write(self.folder / "histories.npz") as draft,
            zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as gathered,
        ):
            for record in self.records():
                path = self.folder / "images" / record["id"] / "history.npz"
                if not record.get("error") and is_name(record["id"]) and path.exists():
                    with zipfile.ZipFile(path) as curves:
                        for name in curves.namelist():
                            gathered.writestr(f"{record['id']}/{name}", curves.read(name))
        summary = write_summary(self.folder, self.records())
        self.release()
        return summary


def fingerprint(sha256: str | None, target: str | None, label: str | None) -> str:
    """What a record is of: a picture by its SHA-256, and the target and label of its own."""
    known = json.dumps([sha256, target, label]).encode()
    return hashlib.blake2b(known, digest_size=16).hexdigest()


def is_run_of(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder holds a run with the settings of `Journal`, as far as they are compared."""
    try:
        found = json.loads((folder / "run.json").read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return found == json.loads(json.dumps(settings["settings"]))
