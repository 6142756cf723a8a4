"""Runs side by side: the settings that differ, paired differences, the images that changed sides.

An image of one run is that of another if the network, the target and the id are the same, or its
content (SHA-256) where the id is not. Each run is compared with the first.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gcpatch.attacks.objectives import fooled_explanation
from gcpatch.errors import UserError
from gcpatch.evaluation.intervals import bootstrap, paired_difference
from gcpatch.report.export import flatten
from gcpatch.report.figures import percent
from gcpatch.report.records import Note, Run, gather
from gcpatch.report.summary import MEANS, OF_CORRECT, RATES, judged, number, summarize

FLAGS = (*RATES, *OF_CORRECT, "accuracy_robust")
NUMBERS = tuple(key for key in MEANS if not key.endswith("_clean"))  # what an attack can change
MEANT = ("fooled_explanation", "fooled_both")  # how the keys begin that an objective gives a meaning
LABELS = {
    "converged": "Converged",
    "fooled_class": "Class fooled",
    "fooled_explanation": "Explanation fooled",
    "fooled_both": "Both fooled",
    "fooled_explanation_ring": "Explanation fooled, with the patch's ring",
    "map_empty": "Map empty",
    "fooled_class_of_correct": "Class fooled, of those classified right",
    "fooled_explanation_of_correct": "Explanation fooled, of those classified right",
    "fooled_both_of_correct": "Both fooled, of those classified right",
    "accuracy_robust": "Accuracy when attacked",
    "steps": "Steps",
    "energy_adversarial": "Energy in the patch",
    "energy_ring_adversarial": "Energy with its ring",
    "map_iou": "Map IoU",
    "map_rank_correlation": "Rank correlation of maps",
    "linf": "L∞",
    "l2": "L2",
    "psnr": "PSNR, dB",
    "pixels_changed_share": "Pixels changed",
    "object_energy_adversarial": "Object energy",
}
SHARES = (*FLAGS, *(key for key in NUMBERS if "energy" in key or key.endswith("share")))
OWN = ("shard", "images")  # settings that say which images, not how they are attacked


def texts(found: "Difference") -> tuple[str, str, str]:
    """Both runs' values and the difference with its interval, as tables show them."""
    if found.key in SHARES:
        both = percent(found.first), percent(found.second)
        change, low, high = (f"{100 * v:+.1f}" for v in (found.value, found.low, found.high))
        return *both, f"{change} [{low}, {high}] %"
    both = f"{found.first:.4g}", f"{found.second:.4g}"
    return *both, f"{found.value:+.3g} [{found.low:+.3g}, {found.high:+.3g}]"


class Difference(NamedTuple):
    """A rate or mean of two runs over the images that both have it of.

    Attributes:
        key: as in `summary.json`.
        images: how many.
        first: the first run's.
        second: the other's.
        value: `second - first`.
        low: the lower end of its 95 % interval.
        high: the upper end.
    """

    key: str
    images: int
    first: float
    second: float
    value: float
    low: float
    high: float


class Pair(NamedTuple):
    """The first run and another.

    Attributes:
        names: of the two.
        images: how many are in both, with the same network and target.
        verdict: the flag that says on which side an image is.
        differences: of rates, then of means.
        changed: rows in the records of the first and of the other of the images that changed sides.
        notes: what cannot be compared, a sentence each.
    """

    names: tuple[str, str]
    images: int
    verdict: str
    differences: list[Difference]
    changed: list[tuple[int, int]]
    notes: list[str]


class Comparison(NamedTuple):
    """Runs side by side.

    Attributes:
        names: of the runs: their folders', whole where two are called the same.
        runs: in the order in which they were named.
        settings: of the settings that differ the value in each run, by name.
        pairs: the first run with each other one.
    """

    names: list[str]
    runs: list[Run]
    settings: dict[str, list[Any]]
    pairs: list[Pair]


def compare(folders: Sequence[Path], note: Note | None = None) -> Comparison:
    """The runs of several folders, or of folders with the parts of campaigns.

    Args:
        folders: of the runs; the first is what the others are compared with.
        note: as of `gather`.

    Raises:
        ReportError: a folder is not that of a run.
        UserError: there are not two different folders.
    """
    known = [folder.resolve() for folder in folders]
    if len(known) < 2:
        raise UserError("name two runs or more to compare")
    if twice := [folder for n, folder in enumerate(known) if folder in known[:n]]:
        raise UserError(f"{twice[0]} is named twice; name two runs or more to compare")
    runs = [gather([folder], note) for folder in folders]
    names = [folder.name for folder in known]
    names = names if len(set(names)) == len(names) else list(map(str, folders))
    pairs = [
        _pair(runs[0], other, (names[0], name)) for other, name in zip(runs, names, strict=True)
    ][1:]
    return Comparison(names, runs, _differing([_settings(run) for run in runs]), pairs)


def as_json(found: Comparison) -> dict[str, Any]:
    """A comparison as `gcpatch compare --json` prints it."""
    runs = [
        {"name": name} | summarize(run.records)
        for name, run in zip(found.names, found.runs, strict=True)
    ]
    pairs = [
        pair._asdict()
        | {"differences": [difference._asdict() for difference in pair.differences]}
        | {"changed": list(_changed(found.runs[0], other, pair))}
        for pair, other in zip(found.pairs, found.runs[1:], strict=True)
    ]
    return {"runs": runs, "settings": found.settings, "pairs": pairs}


def _changed(first: Run, second: Run, pair: Pair) -> Iterator[dict[str, Any]]:
    for row, other in pair.changed:
        before, after = first.records[row], second.records[other]
        flags = {"first": before[pair.verdict], "second": after[pair.verdict]}
        known = {"id": before["id"], "id_second": after["id"], "target": before.get("target")}
        yield known | flags


# ---- settings ------------------------------------------------------------------------------------


def _settings(run: Run) -> dict[str, Any]:
    """What a run was made with, by dotted names."""
    inner = run.settings.get("settings")
    settings = dict(inner) if isinstance(inner, dict) else {}
    made = {key: run.settings.get(key) for key in ("versions", "python", "device")}
    return flatten({k: v for k, v in settings.items() if k not in OWN} | made)


def _differing(settings: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for one in settings for key in one)
    found = {key: [one.get(key) for one in settings] for key in keys}
    return {key: values for key, values in found.items() if any(v != values[0] for v in values)}


# ---- images in both ------------------------------------------------------------------------------


def _done(run: Run) -> dict[int, dict[str, Any]]:
    return {
        row: record
        for row, record in enumerate(run.records)
        if not record.get("error") and not record.get("skipped")
    }


def _target(record: dict[str, Any]) -> Any:
    """The target's name, or its number; None of an attack without one."""
    target = record.get("target") or {}
    return target.get("name") or target.get("id")


def _place(record: dict[str, Any], *, network: bool, target: bool, content: bool) -> Any:
    """What the records of one image share; None where that is not known."""
    if content and not record.get("sha256"):
        return None
    said = None if content else record.get("id")
    model, goal = network and record.get("model"), target and _target(record)
    return repr((said, record.get("sha256"), model, goal))


def _matched(
    first: dict[int, dict[str, Any]], second: dict[int, dict[str, Any]], **by: bool
) -> list[tuple[int, int]]:
    """Rows of the same image: by its id and content, then of what is left by its content."""
    found: list[tuple[int, int]] = []
    for content in (False, True):
        place = partial(_place, content=content, **by)
        taken = {row for pair in found for row in pair[1:]}
        there = {place(record): row for row, record in second.items() if row not in taken}
        done = {row for row, _ in found}
        for row in first.keys() - done:
            key = place(first[row])
            if key is not None and key in there:
                found.append((row, there.pop(key)))
    return sorted(found)


# ---- two runs ------------------------------------------------------------------------------------


def _pair(first: Run, second: Run, names: tuple[str, str]) -> Pair:
    done = _done(first), _done(second)
    models = [dict.fromkeys(str(r.get("model")) for r in one.values()) for one in done]
    shared = [name for name in models[0] if name in models[1]]
    across = not shared and len(models[0]) == len(models[1]) == 1
    rows = _matched(*done, network=not across, target=True)
    notes = []
    if across:
        each = " and ".join(
            f"{name} attacks {next(iter(m))}" for name, m in zip(names, models, strict=True)
        )
        notes.append(
            f"{each}: the same images and targets are paired, but steps, distances and maps are "
            "each network's own."
        )
    else:
        for name, known in zip(names, models, strict=True):
            if alone := [model for model in known if model not in shared]:
                notes.append(f"Only {name} has {', '.join(alone)}, which is not compared.")
    notes += _other_weights(first, second, shared)
    if not rows:
        notes.append(
            f"{names[0]} and {names[1]} share no image with the same target, so that only the "
            "rates of each can be seen, not their differences."
        )
    anyhow = _matched(*done, network=not across, target=False)
    if others := len({row for row, _ in anyhow} - {row for row, _ in rows}):
        count = "1 image has" if others == 1 else f"{others:,} images have"
        notes.append(f"{count} another target in {names[1]} and cannot be paired.")
    pairs = [(done[0][row], done[1][other]) for row, other in rows]
    unlike = _unlike(pairs)
    if unlike:
        notes.append(
            f"{unlike[0]} and {unlike[1]} want different things of the explanation, so that whether "
            "it is fooled is not compared, and sides are those of the class."
        )
    differences = list(_differences(pairs, skip=MEANT if unlike else ()))
    compared = {difference.key for difference in differences}
    verdict = "fooled_both" if "fooled_both" in compared else "fooled_class"
    if rows and verdict == "fooled_class" and not unlike:
        notes.append("No explanation is judged in both runs: sides are those of the class.")
    changed = [
        where
        for where, (before, after) in zip(rows, pairs, strict=True)
        if {str(one.get(verdict)) for one in (before, after)} == {"True", "False"}
    ]
    return Pair(names, len(rows), verdict, differences, changed, notes)


def _other_weights(first: Run, second: Run, models: Sequence[str]) -> Iterator[str]:
    """A sentence for each network that has other weights in two runs."""
    before, after = (_settings(run) for run in (first, second))
    for name in models:
        old, new = (one.get(f"weights_digest.{name}") for one in (before, after))
        if old and new and old != new:
            yield f"{name} has other weights in the two runs: it is not the same network."


def _unlike(pairs: Sequence[tuple[dict, dict]]) -> tuple[str, str] | None:
    """Two objectives by which a fooled explanation means different things, if there are any."""
    for before, after in pairs:
        if None in (before.get("fooled_explanation"), after.get("fooled_explanation")):
            continue
        names = str(before.get("objective")), str(after.get("objective"))
        hides = [fooled_explanation(name, 0.0, False) for name in names]
        if names[0] != names[1] and (None in hides or hides[0] != hides[1]):
            return names
    return None


def _differences(
    pairs: Sequence[tuple[dict, dict]], skip: tuple[str, ...]
) -> Iterator[Difference]:
    """Of each rate and mean that both runs have of some image."""
    known = [tuple(record | judged(record) for record in pair) for pair in pairs]
    for key in (*FLAGS, *NUMBERS):
        if skip and key.startswith(skip):
            continue
        kind = bool if key in FLAGS else float
        read = partial(_value, key=key, flag=kind is bool)
        values = [pair for pair in ([*map(read, two)] for two in known) if None not in pair]
        if not values:
            continue
        first, second = np.array(values, kind).T
        found = (
            paired_difference(first, second) if kind is bool else bootstrap(second - first)
        )
        yield Difference(key, len(values), float(first.mean()), float(second.mean()), *found)


def _value(record: dict[str, Any], key: str, flag: bool) -> bool | float | None:
    value = record.get(key)
    if isinstance(value, bool) or flag:
        return value if isinstance(value, bool) and flag else None
    return number(value)
