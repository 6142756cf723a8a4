"""What a report is of: the settings and records of a run, or of the parts of one campaign."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

from gcpatch.attacks.regions import region
from gcpatch.errors import UserError
from gcpatch.evaluation.transfer import Attacked
from gcpatch.files import is_name
from gcpatch.report.export import flatten

Note = Callable[[str], None]  # told what is left out

NOTED = 3  # in a line
TEXTS = ("id", "error", "skipped")
OBJECTS = ("target", "label", "clean", "adversarial", "png", "loss", "asked")


class ReportError(UserError):
    """A run's folder cannot be read; the message says why in one sentence."""


class Run(NamedTuple):
    """A run, or several as one.

    Attributes:
        settings: what `run.json` holds; of several runs what they share, and each one's own in
            `parts`.
        records: one for each id, in the order of the runs and their files.
        folders: of each record, the folder of its run.
    """

    settings: dict[str, Any]
    records: list[dict[str, Any]]
    folders: list[Path]


def gather(folders: Sequence[Path], note: Note | None = None) -> Run:
    """The run of a folder, or those of several as one.

    A folder that holds no `run.json` stands for its subfolders `part-*`. Of an image that several
    runs have, the first result counts.

    Args:
        folders: of the runs.
        note: as of `read_records`.

    Raises:
        ReportError: a folder is not that of a run, two runs have different settings, or an id is
            of different images in two runs; the message names the folders and what differs. Without
            `note` also where a line is no record.
    """
    runs = list(dict.fromkeys(run for folder in folders for run in _runs(Path(folder))))
    settings = _together(runs, [_settings(run) for run in runs])
    found: dict[str, tuple[Path, dict]] = {}
    for run in runs:
        for name, record in _latest(run, note).items():
            home, known = found.get(name, (run, record))
            if name in found:
                _compare(name, home, known, run, record)
            if name not in found or known.get("error"):
                found[name] = run, record
    return Run(settings, [r for _, r in found.values()], [home for home, _ in found.values()])


def notes(left_out: Sequence[str]) -> str:
    """One line on what a report leaves out, as `gather` and `page.write_page` noted it."""
    first = "; ".join(left_out[:NOTED])
    more = len(left_out) - NOTED
    return f"left out: {first}" + (f"; and {more:,} more" if more > 0 else "")


def attacked(folder: Path, limit: int | None = None) -> list[Attacked]:
    """The adversarial images of a run, or its first `limit`.

    Raises:
        ReportError: the folder is not that of a run, does not say where the patches lie, or has an
            id that is a path.
    """
    run = gather([folder])
    try:
        place = region(run.settings["settings"]["patch"]).place
    except (KeyError, TypeError, AttributeError):
        raise ReportError(f"{folder / 'run.json'} does not say where the patches lie") from None
    return [
        Attacked(folder.name, record, images_of(home, record["id"]) / "adversarial.png", place)
        for record, home in zip(run.records, run.folders, strict=True)
        if not record.get("error") and not record.get("skipped")
    ][:limit]


def images_of(run: Path, identity: str) -> Path:
    """The folder of one image's files.

    Raises:
        ReportError: the id is no name but a path, which would lead out of the run's `images`.
    """
    if not is_name(identity):
        raise ReportError(f"the id {identity!r} in {run} is no name of a folder in images/")
    return run / "images" / identity


def read_records(run: Path, note: Note | None = None) -> Iterator[dict[str, Any]]:
    """The records of results.jsonl, one by one; a last line that a kill cut short is left out.

    Args:
        run: the run's folder.
        note: told of every line that is left out.

    Raises:
        ReportError: there is no such file, or, without `note`, a whole line is no record.
    """
    path = _file(Path(run), "results.jsonl")
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            whole = line.endswith(b"\n")
            if _is_record(record := _object(line)):
                yield record
            elif line.strip() and note:
                what = "is no record" if whole else "is cut short"
                note(f"line {number} of {path}, which {what}")
            elif line.strip() and whole:
                raise ReportError(f"{path}, line {number} is no record; mend or delete the line")


def _is_record(found: Any) -> bool:
    """Whether an object has what every reader of records relies on."""
    return (
        isinstance(found, dict)
        and isinstance(found.get("id"), str)
        and all(isinstance(found.get(key), str | None) for key in TEXTS)
        and all(isinstance(found.get(key), dict | None) for key in OBJECTS)
    )


def _runs(folder: Path) -> list[Path]:
    """The folder, or the parts in it; `part-2` is before `part-10`."""
    parts = [part for part in folder.glob("part-*") if part.is_dir()]
    if (folder / "run.json").exists() or not parts:
        return [folder]
    return sorted(parts, key=lambda part: (len(part.name), part.name))


def _file(run, name):
    """The path of a file that every run has."""
    if not run.is_dir():
        raise ReportError(f"There is no folder {run}.")
    if not (run / name).is_file():
        raise ReportError(f"{run} has no {name}, so it is not the folder of a run.")
    return run / name


def _object(text):
    """The JSON object in `text` (bytes), or None."""
    try:
        found = _decode(text.decode())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


# Each key is one string for all records, which halves their memory.
_decode = json.JSONDecoder(object_pairs_hook=lambda pairs: {intern(k): v for k, v in pairs}).decode


def _settings(run):
    """The JSON object in a run's run.json."""
    path = _file(run, "run.json")
    found = _object(path.read_bytes())
    if found is None:
        raise ReportError(f"{path} does not hold one JSON object.")
    return found


def _latest(run, note):
    """{id: its last record}, in the order of the file."""
    last: dict[str, dict] = {}
    for record in read_records(run, note):
        last.pop(record["id"], None)
        last[record["id"]] = record
    return last


def _together(runs, found):
    """The settings of several runs: what all share, and by folder what is each one's own."""
    if len(runs) == 1:
        return found[0]
    for run, whole in zip(runs, found, strict=True):
        inner = whole.get("settings")
        if not isinstance(inner, dict):
            raise ReportError(f"{run / 'run.json'} has no settings to compare with other runs'.")
        whole["shard"] = inner.pop("shard", None)
        _agree(runs[0], found[0]["settings"], run, inner)
    shared = {k: v for k, v in found[0].items() if all(whole.get(k) == v for whole in found)}
    own = [{k: v for k, v in whole.items() if k not in shared} for whole in found]
    names = [run.name for run in runs]
    names = names if len(set(names)) == len(runs) else list(map(str, runs))
    return shared | {"parts": dict(zip(names, own, strict=True))}


def _agree(first, expected, other, found):
    """Raises ReportError where the settings of two runs differ."""
    old, new = flatten(expected), flatten(found)
    differing = [
        f"{key} is {old.get(key)!r} and {new.get(key)!r}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    if differing:
        raise ReportError(f"{first} and {other} have other settings: {'; '.join(differing)}.")


def _compare(name, home, known, run, record):
    """Raises ReportError where two records of one id are of different images."""
    key = "sha256" if known.get("sha256") and record.get("sha256") else "source"
    if known.get(key) == record.get(key):
        return
    if known.get("source") != record.get("source"):
        key = "source"
    raise ReportError(
        f"The id {name!r} is of different images: {key} {known.get(key)} in {home}, "
        f"{record.get(key)} in {run}."
    )
