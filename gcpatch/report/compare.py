"""Runs side by side: the settings that differ, paired differences, the images that changed sides.

An image of one run is that of another if the network, the target and the id are the same, or its
content (SHA-256) where the id is not. Each run is compared with the first.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
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
MEANT = (
    "fooled_explanation",
    "fooled_both",
)  # how the keys begin that an objective gives a meaning
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


Records = dict[int, dict[str, Any]]  # by row
Rows = list[tuple[int, int]]  # of one run and of the other


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


class Changed(NamedTuple):
    """An image that is fooled in one of two runs alone: its rows there, and in which it is."""

    first: int
    second: int
    only_first: bool


class Pair(NamedTuple):
    """The first run and another.

    Attributes:
        names: of the two.
        images: how many are in both, with the same network and target.
        verdict: the flag that says on which side an image is.
        differences: of rates, then of means.
        changed: the images that changed sides.
        notes: what cannot be compared, a sentence each.
    """

    names: tuple[str, str]
    images: int
    verdict: str
    differences: list[Difference]
    changed: list[Changed]
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


def texts(found: Difference) -> tuple[str, str, str]:
    """Both runs' values and the difference with its interval, as tables show them."""
    if found.key in SHARES:
        both = percent(found.first), percent(found.second)
        ends = found.value, found.low, found.high
        change, low, high = (f"{round(100 * v, 1) + 0.0:+.1f}" for v in ends)  # no -0.0
        return *both, f"{change} [{low}, {high}] %"
    both = f"{found.first:.4g}", f"{found.second:.4g}"
    return *both, f"{found.value:+.3g} [{found.low:+.3g}, {found.high:+.3g}]"


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
    for row, other, only_first in pair.changed:
        before, after = first.records[row], second.records[other]
        known = {"id": before["id"], "id_second": after["id"], "target": before.get("target")}
        yield known | {"first": only_first, "second": not only_first}


# ---- settings ------------------------------------------------------------------------------------


def _settings(run: Run) -> dict[str, Any]:
    """What a run was made with, by dotted names."""
    inner = run.settings.get("settings")
    settings = dict(inner) if isinstance(inner, dict) else {}
    if isinstance(attack := settings.get("attack"), dict) and "objective" in attack:
        settings.pop("objective", None)  # which says the same
    made = {key: run.settings.get(key) for key in ("versions", "python", "device")}
    return flatten({k: v for k, v in settings.items() if k not in OWN} | made)


def _differing(settings: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for one in settings for key in one)
    found = {key: [one.get(key) for one in settings] for key in keys}
    return {key: values for key, values in found.items() if any(v != values[0] for v in values)}


# ---- images in both ------------------------------------------------------------------------------


def _done(run: Run) -> Records:
    """The records with results, by row."""
    return {
        row: record
        for row, record in enumerate(run.records)
        if not record.get("error") and not record.get("skipped")
    }


def _target(record: dict[str, Any]) -> Any:
    """The target's name, or its number, or `untargeted`; None where nothing is said."""
    target = record.get("target") or {}
    return target.get("mode") or target.get("name") or target.get("id")


def _place(record: dict[str, Any], content: bool, network: bool, target: bool) -> str | None:
    """What the records of one image share, as text; None where that is not known."""
    if content and not record.get("sha256"):
        return None
    said = None if content else record.get("id")
    model, goal = network and record.get("model"), target and _target(record)
    return repr((said, record.get("sha256"), model, goal))


def _matched(first: Records, second: Records, *, network: bool, target: bool = True) -> Rows:
    """Rows of the same image: by its id and content, then of what is left by its content.

    Args:
        first: the records of one run.
        second: those of the other.
        network: whether the network must be the same as well.
        target: whether the target must.
    """
    found: dict[int, int] = {}
    for content in (False, True):
        taken = set(found.values())
        there = {
            _place(record, content, network, target): row
            for row, record in second.items()
            if row not in taken
        }
        there.pop(None, None)
        for row in first.keys() - found:
            place = _place(first[row], content, network, target)
            if place in there:
                found[row] = there.pop(place)
    return sorted(found.items())


# ---- two runs ------------------------------------------------------------------------------------


def _pair(first: Run, second: Run, names: tuple[str, str]) -> Pair:
    done = _done(first), _done(second)
    models = [dict.fromkeys(str(r.get("model")) for r in one.values()) for one in done]
    shared = [name for name in models[0] if name in models[1]]
    across = not shared and len(models[0]) == len(models[1]) == 1
    rows = _matched(*done, network=not across)
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
    found = [(done[0][row], done[1][other]) for row, other in rows]
    pairs = [(_judged_as(one, other), _judged_as(other, one)) for one, other in found]
    notes += _rules(zip(chain(*found), chain(*pairs), strict=True))
    unlike = _unlike(pairs)
    if unlike:
        notes.append(
            f"{unlike[0]} and {unlike[1]} want different things of the explanation: whether it is "
            "fooled is not compared, and sides are those of the class."
        )
    differences = list(_differences(pairs, skip=MEANT if unlike else ()))
    compared = {difference.key for difference in differences}
    verdict = "fooled_both" if "fooled_both" in compared else "fooled_class"
    if rows and verdict == "fooled_class" and not unlike:
        notes.append("No explanation is judged in both runs: sides are those of the class.")
    sides = [[_value(one, verdict, flag=True) for one in pair] for pair in pairs]
    changed = [
        Changed(*where, bool(before))
        for where, (before, after) in zip(rows, sides, strict=True)
        if None not in (before, after) and before != after
    ]
    return Pair(names, len(rows), verdict, differences, changed, notes)


def _other_weights(first: Run, second: Run, models: Sequence[str]) -> Iterator[str]:
    """A sentence for each network that has other weights in two runs."""
    before, after = (_settings(run) for run in (first, second))
    for name in models:
        old, new = (one.get(f"weights_digest.{name}") for one in (before, after))
        if old and new and old != new:
            yield f"{name} has other weights in the two runs: it is not the same network."


def _rules(records: Iterable[tuple[dict, dict]]) -> list[str]:
    """A sentence for each objective whose explanations are judged as another's."""
    said = [
        f"{own.get('objective')} wants nothing of the explanation, which is judged as that of "
        f"{judged_so['objective']}."
        for own, judged_so in records
        if own is not judged_so
    ]
    return list(dict.fromkeys(said))


def _judged_as(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A record; where nothing was wanted of its explanation, this is judged as the other's is."""
    name, points = str(other.get("objective")), one.get("pointing_adversarial")
    energy, ring = (number(one.get(f"energy{r}_adversarial")) for r in ("", "_ring"))
    judges = one.get("fooled_explanation") is None and other.get("fooled_explanation") is not None
    if not judges or energy is None or not isinstance(points, bool):
        return one
    if (fooled := fooled_explanation(name, energy, points)) is None:
        return one
    with_ring = None
    if ring is not None and fooled_explanation(name, 0.0, False):
        with_ring = fooled_explanation(name, ring, points)
    return one | {
        "objective": name,
        "fooled_explanation": fooled,
        "fooled_both": fooled and one.get("fooled_class"),
        "fooled_explanation_ring": with_ring,
    }


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


def _differences(pairs: Sequence[tuple[dict, dict]], skip: tuple[str, ...]) -> Iterator[Difference]:
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
        found = paired_difference(first, second) if kind is bool else bootstrap(second - first)
        yield Difference(key, len(values), float(first.mean()), float(second.mean()), *found)


def _value(record: dict[str, Any], key: str, flag: bool) -> bool | float | None:
    value = record.get(key)
    if flag:
        return value if isinstance(value, bool) else None
    known = None if isinstance(value, bool) else number(value)
    return None if known is None else float(known)
