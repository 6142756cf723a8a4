"""Records as one table for other programs: CSV or Parquet, nested fields with dots."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gcpatch.errors import UserError
from gcpatch.files import atomic_write

SUFFIXES = ".csv", ".parquet"
FORMULA = "=", "+", "-", "@", "\t", "\r"  # how a spreadsheet's formulas begin


def flatten(found: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """What is nested, under its keys with dots: `{"a": {"b": 1}}` gives `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in found.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def check(path: Path) -> None:
    """Raises UserError where `path` names no format that can be written here."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} ends in {path.suffix!r}; choose one of {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise UserError(f"{path} needs pyarrow: pip install 'gcpatch[parquet]'") from None


def write_export(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes one row for each record; the suffix of `path` decides on the format.

    Raises:
        UserError: the suffix is none of `SUFFIXES`, pyarrow is missing, or the file cannot be
            written.
    """
    check(path)
    names, found = table(records)
    rows = (list(map(_plain, row)) for row in found)
    try:
        with atomic_write(path) as draft:
            if path.suffix == ".csv":
                _write_csv(names, rows, draft)
            else:
                _write_parquet(dict(zip(names, zip(*rows, strict=True), strict=True)), draft)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def table(records: Sequence[dict[str, Any]]) -> tuple[list[str], Iterator[list[Any]]]:
    """The columns' names, and a row for each record; None where a record has no such field."""
    names = _names(records)
    return names, ([flat.get(name) for name in names] for flat in map(flatten, records))


def _names(records):
    """The columns: every field of any record, in the order of those that have results."""
    order = sorted(records, key=lambda record: bool(record.get("error")))
    names = dict.fromkeys(name for record in order for name in flatten(record))
    groups = {name[:n] for name in names for n, letter in enumerate(name) if letter == "."}
    return [name for name in names if name not in groups]  # of a failed image `target` is null


def _plain(value):
    """A number, text or None; text that UTF-8 cannot say gets question marks."""
    if isinstance(value, list):
        value = json.dumps(value)
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _write_csv(names, rows, path):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(_inert, names))
        writer.writerows(map(_inert, row) for row in rows)


def _inert(cell):
    """A cell that no spreadsheet takes for a formula: such text gets an apostrophe before it."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _write_parquet(columns, path):
    import pyarrow
    from pyarrow import parquet

    def array(values):
        try:
            return pyarrow.array(values)
        except (ValueError, TypeError, OverflowError):  # of several types
            return pyarrow.array([None if v is None else str(v) for v in values])

    parquet.write_table(pyarrow.table({k: array(v) for k, v in columns.items()}), path)
