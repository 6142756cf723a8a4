"""Records by column, as the page's table shows them: compact, strings shared and in order."""

import json
import re
from collections.abc import Sequence
from os.path import commonprefix
from typing import Any

from gcpatch.report.summary import number

COLUMNS = (  # heading, kind, where in a record
    ("Image", "text", "id"),
    ("Status", "status", "status"),
    ("Model", "text", "model"),
    ("Objective", "text", "objective"),
    ("True class", "class", "label"),
    ("Clean class", "class", "clean"),
    ("Clean probability", "share", "clean.probability"),
    ("Target", "class", "target"),
    ("Attacked class", "class", "adversarial"),
    ("Attacked probability", "share", "adversarial.probability"),
    ("PNG probability", "share", "png.probability"),
    ("Steps", "count", "steps"),
    ("Energy, clean", "share", "energy_clean"),
    ("Energy, attacked", "share", "energy_adversarial"),
    ("Energy with its ring, clean", "share", "energy_ring_clean"),
    ("Energy with its ring, attacked", "share", "energy_ring_adversarial"),
    ("Fooled with its ring", "flag", "fooled_explanation_ring"),
    ("Map empty", "flag", "map_empty"),
    ("Pointing, clean", "flag", "pointing_clean"),
    ("Pointing, attacked", "flag", "pointing_adversarial"),
    ("Object energy, clean", "share", "object_energy_clean"),
    ("Object energy, attacked", "share", "object_energy_adversarial"),
    ("Map IoU", "number", "map_iou"),
    ("Rank correlation", "number", "map_rank_correlation"),
    ("Loss", "number", "loss.total"),
    ("Cross-entropy", "number", "loss.cross_entropy"),
    ("Explanation loss", "number", "loss.explanation"),
    ("L∞", "number", "linf"),
    ("L2", "number", "l2"),
    ("PSNR, dB", "number", "psnr"),
    ("Pixels changed", "share", "pixels_changed_share"),
    ("Source", "text", "source"),
    ("Skipped because", "text", "skipped"),
    ("Error", "text", "error"),
)
KINDS_AT_LEAST = {  # how many values a column must have to be shown; the others always are
    "model": 2,
    "objective": 2,
    "label": 1,
    "error": 1,
    "skipped": 1,
    "fooled_explanation_ring": 1,
    "energy_ring_clean": 1,
    "energy_ring_adversarial": 1,
    "map_empty": 1,
    "object_energy_clean": 1,
    "object_energy_adversarial": 1,
}
FOLDED = {  # what is shown only when it is asked for
    "objective",
    "adversarial.probability",
    "energy_ring_clean",
    "pointing_clean",
    "pointing_adversarial",
    "object_energy_clean",
    "object_energy_adversarial",
    "loss.cross_entropy",
    "loss.explanation",
    "linf",
    "l2",
    "psnr",
    "pixels_changed_share",
}


def columns(
    records: Sequence[dict[str, Any]], layout: Sequence[tuple[str, str, str]] = COLUMNS
) -> list[dict[str, Any]]:
    """The columns of the table, each with its `heading`, `kind`, `key` and `values` [records].

    A column of strings has them once, in order, as `names` (see `_front_coded`); its values are
    places in there. Flags are 1 and 0, numbers have five digits, and None stands for what a record
    does not say. A column is `folded` where it is shown only when it is asked for.

    Args:
        records: a row each.
        layout: the heading, kind and key of each column.
    """
    found = []
    for heading, kind, key in layout:
        values = _values(records, kind, key)
        if len(set(values) - {None}) < KINDS_AT_LEAST.get(key, 0):
            continue
        column = {"heading": heading, "kind": kind, "key": key, "folded": key in FOLDED}
        if kind in ("text", "class", "status"):
            names = sorted(set(values) - {None}, key=_order)
            place = {name: n for n, name in enumerate(names)}
            values = [place.get(value) for value in values]
            column["names"] = _front_coded(names)
        found.append(column | {"values": values})
    return found


def status(record: dict[str, Any]) -> str:
    """What became of an image, in a word or three."""
    if record.get("error"):
        return "failed"
    if record.get("skipped"):
        return "skipped"
    if record.get("maps"):
        return "explained"
    label, explanation = record.get("fooled_class"), record.get("fooled_explanation")
    if record.get("fooled_both"):
        return "both"
    if label and explanation:
        return "before PNG only"
    if label:
        return "class only" if explanation is False else "class"
    return "explanation only" if explanation else "not fooled"


def _values(records, kind, key):
    """What the table shows of each record in one column: a string, a number, or None."""
    if kind == "status":
        return [status(record) for record in records]
    values: Sequence[Any] = records
    for part in key.split("."):
        values = [v.get(part) if isinstance(v, dict) else None for v in values]
    return [None if v is None else CELLS[kind](v) for v in values]


def _text(value):
    return value if isinstance(value, str) else json.dumps(value)


def _class(found):
    """A category's name, or its number; of a target without a class of its own its mode."""
    if not isinstance(found, dict):
        return None
    name, number = found.get("mode") or found.get("name"), found.get("id")
    return _text(name) if name else None if number is None else f"class {number}"


def _number(value):
    """Five digits of a finite number; what is below 1 stays below: no share is a false 100 %."""
    if isinstance(value, bool) or number(value) is None:
        return None
    if isinstance(value, int):
        return value
    short = float(f"{value:.5g}")
    return min(short, 0.99999) if value < 1 else short


def _flag(value):
    return int(value) if isinstance(value, bool) else None


CELLS = {
    "text": _text,
    "class": _class,
    "share": _number,
    "count": _number,
    "number": _number,
    "flag": _flag,
}


def _order(text):
    """Sorts as people do: letters of any case, and numbers by their size."""
    parts = re.split("([0-9]+)", text.casefold())
    parts[1::2] = [(len(part.lstrip("0")), part.lstrip("0")) for part in parts[1::2]]
    return parts, text


def _front_coded(names):
    """Of each name how many ASCII letters it shares with the one before, and then the rest."""
    coded: list[int | str] = []
    before = ""
    for name in names:
        shared = commonprefix((before, name))  # noqa: RUF071
        same = len(shared) if shared.isascii() else 0  # other letters count otherwise in the page
        coded += same, name[same:]
        before = name
    return coded
