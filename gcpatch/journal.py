"""A run's folder: settings, one record an image, pictures, histories, summary.

A record is appended only after the image's files are whole, and files appear under their names
only when they are whole, so that a run can be stopped at any moment and taken up again.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gcpatch.attacks import Losses
from gcpatch.errors import UserError

RATES = ("converged", "fooled_class", "fooled_explanation", "fooled_both")
MEANS = (
    "steps", "energy_clean", "energy_adversarial", "map_iou", "map_rank_correlation",
    "linf", "l2", "psnr", "pixels_changed_share",
    "object_energy_clean", "object_energy_adversarial",
)  # fmt: skip


class RunError(UserError):
    """A run's folder that cannot be used."""


class Journal:
    """The folder of one run.

    Args:
        folder: where the run is; made if it is not there.
        settings: what the run does, written to `run.json`.
        resume: whether to go on with a run that the folder holds.

    Raises:
        RunError: the folder cannot be written, holds a run and `resume` is not set, or holds a
            run of other settings; the message says which.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], *, resume: bool = False):
        self.folder = folder
        self.settings = settings
        found = self.folder / "run.json"
        try:
            (self.folder / "images").mkdir(parents=True, exist_ok=True)
            if found.exists():
                self._compare(found, resume)
            _write(found, json.dumps(settings, indent=2))
            kept = [record for record in self.records() if record["error"] is None]
            lines = "".join(json.dumps(record) + "\n" for record in kept)
            _write(self.folder / "results.jsonl", lines)
        except OSError as error:
            raise RunError(f"cannot write to the folder {folder}: {error.strerror}") from None
        self.done = {record["id"] for record in kept}

    def _compare(self, found: Path, resume: bool) -> None:
        if not resume:
            raise RunError(
                f"{self.folder} holds a run already; go on with --resume or choose another folder"
            )
        try:
            old = json.loads(found.read_text())["settings"]
        except (ValueError, KeyError):
            raise RunError(f"{found} is not a run's settings; choose another folder") from None
        new = json.loads(json.dumps(self.settings["settings"]))
        differing = [
            f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
            for key in sorted({*old, *new})
            if old.get(key) != new.get(key)
        ]
        if differing:
            raise RunError(f"{self.folder} holds a run of other settings: {'; '.join(differing)}")

    def records(self) -> list[dict[str, Any]]:
        """The records so far; a last line that was cut off is left out."""
        path = self.folder / "results.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def append(self, record: dict[str, Any]) -> None:
        """Writes one record behind the others, through to the disk."""
        with open(self.folder / "results.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if record["error"] is None:
            self.done.add(record["id"])

    def store(
        self, identity: str, write: Callable[[Path], dict[str, Any]], history: Losses
    ) -> dict[str, Any]:
        """Puts the folder of an image's files in place, whole; returns what `write` returns."""
        place = self.folder / "images" / identity
        partial = place.with_name(f".{identity}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        record = write(partial)
        np.savez(partial / "history.npz", **history._asdict())
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
        return record

    def close(self) -> dict[str, Any]:
        """Gathers the histories and writes the summary, which it returns."""
        records = self.records()
        histories: dict[str, np.ndarray] = {}
        for record in records:
            path = self.folder / "images" / record["id"] / "history.npz"
            if record["error"] is None and path.exists():
                with np.load(path) as curves:
                    histories |= {f"{record['id']}/{name}": curve for name, curve in curves.items()}
        partial = self.folder / ".histories.npz"
        np.savez_compressed(partial, **histories)  # type: ignore[arg-type]
        partial.replace(self.folder / "histories.npz")
        summary = summarize(records)
        _write(self.folder / "summary.json", json.dumps(summary, indent=2))
        return summary


def is_run_of(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder holds a run with the settings of `Journal`, as far as they are compared."""
    try:
        found = json.loads((folder / "run.json").read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return found == json.loads(json.dumps(settings["settings"]))


def summarize(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Rates and means over the records, each over those that have the value; None over none."""
    records = list(records)
    done = [record for record in records if record["error"] is None]
    summary: dict[str, Any] = {"images": len(records), "failed": len(records) - len(done)}
    for key in (*RATES, *MEANS):
        values = [record[key] for record in done if record.get(key) is not None]
        summary[key] = float(np.mean(values)) if values else None
    return summary


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)
