"""What a terminal shows: tables, JSON, messages, a bar."""

import io
import json
import signal
import sys
from collections.abc import Iterable, Sequence
from typing import Any

RECORD_HEAD = ("image", "clean", "attacked", "class", "map", "energy", "steps")
ACCURACIES = {"accuracy_clean": "clean", "accuracy_robust": "attacked"}
RATES = {
    "fooled_class": "class",
    "fooled_explanation": "explanation",
    "fooled_both": "both",
    "fooled_explanation_ring": "explanation with the patch's ring",
}


def prepare() -> None:
    """Has the streams write `\\xe9` and the like for what their encoding cannot say."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def warn(text: str, verb: str | None = None) -> None:
    """Writes a line to standard error, as the verb's own if it is given."""
    print(f"gcpatch {verb}: {text}" if verb else text, file=sys.stderr)


def stopped(by: int, verb: str, again: str) -> int:
    """Says how to go on with a run that a signal ended; returns the exit status."""
    warn(f"{'the budget is spent' if by == signal.SIGALRM else 'stopped'}; {again}", verb)
    return 128 + by


def as_json(value: Any, indent: int = 2) -> None:
    """Prints a value as JSON."""
    print(json.dumps(value, indent=indent))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints rows of cells below their heads, each column as wide as its widest cell."""
    body = list(rows)
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    for row in [head, ["-" * width for width in widths], *body]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def records(found: Iterable[dict[str, Any]]) -> None:
    """Prints a table of a run's records."""
    table(head=RECORD_HEAD, rows=map(_cells, found))


def _cells(record: dict[str, Any]) -> tuple[str, ...]:
    if reason := record["error"] or record["skipped"]:
        return (record["id"], reason, "", "", "", "", "")
    return (
        record["id"],
        f"{record['clean']['name']} {record['clean']['probability']:.2f}",
        f"{record['adversarial']['name']} {record['png']['probability']:.2f}",
        _mark(record["fooled_class"]),
        _mark(record["fooled_explanation"]),
        f"{record['energy_clean']:.2f} -> {record['energy_adversarial']:.2f}",
        str(record["steps"]),
    )


def _mark(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "no"


def summary(found: dict[str, Any]) -> None:
    """Prints a run's `summary.json`: counts, rates with their intervals, and of networks each its own."""
    skipped = f", {found['skipped']} skipped" if found["skipped"] else ""
    print(f"{found['images']} images, {found['failed']} failed{skipped}")
    for name, part in (found.get("networks") or {"": found}).items():
        for what, names in (("fooled", RATES), ("accuracy", ACCURACIES)):
            if rates := [
                f"{names[key]} {_rate(part, key)}" for key in names if part[key] is not None
            ]:
                print(f"{f'{name}, ' if name else ''}{what}: {', '.join(rates)}")


def _rate(found: dict[str, Any], key: str) -> str:
    low, high = found["intervals"][key]
    return f"{found[key]:.1%} [{low:.1%}, {high:.1%}]"


def track(items: Iterable[Any], unit: str = " images") -> Iterable[Any]:
    """The items, with a bar on a terminal where they take more than two seconds."""
    from tqdm import tqdm

    return tqdm(items, unit=unit, delay=2, disable=None)  # None: where there is no terminal
