"""`gcpatch compare`: runs side by side."""

import argparse
from pathlib import Path
from typing import Any

from gcpatch.cli import printing
from gcpatch.cli.options import add_json, add_verb
from gcpatch.errors import UserError


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = add_verb(
        verbs,
        "compare",
        run=run,
        summary="compare runs on the images that are in both: settings, rates, who changed sides",
        example="gcpatch compare runs/classify runs/hide --out compare.html",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folders of runs, or with the parts of campaigns; each is compared with the first",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write one page, FILE.html")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints what differs, and writes the page."""
    from gcpatch.report import compare, records, versus

    if options.out and options.out.suffix != ".html":
        raise UserError(f"--out is {options.out}; the page is a file .html")
    left_out: list[str] = []
    found = compare.compare(options.runs, left_out.append)
    if options.out:
        try:
            versus.write_page(found, options.out, left_out.append)
        except OSError as error:
            raise UserError(f"cannot write {options.out}: {error.strerror}") from None
    if options.json:
        printing.as_json(compare.as_json(found))
    else:
        _print(found)
        if options.out:
            print(f"page: {options.out}")
    if left_out:
        printing.warn(records.notes(left_out), options.verb)
    return 0


def _print(found: Any) -> None:
    """Prints a comparison: a table of settings, and of each pair one of rates and means."""
    from gcpatch.report.compare import LABELS, texts

    if found.settings:
        rows = [(key, *map(_said, values)) for key, values in found.settings.items()]
        printing.table(head=("setting", *found.names), rows=rows)
    else:
        print("no setting differs")
    for pair in found.pairs:
        first, second = pair.names
        print(f"\n{first} and {second}: {pair.images} images in both")
        if pair.differences:
            head = ("", "images", first, second, "difference and 95 % interval")
            rows = [(LABELS[d.key], str(d.images), *texts(d)) for d in pair.differences]
            printing.table(head=head, rows=rows)
        if pair.images:
            print(_sides(found, pair))
        for note in pair.notes:
            print(note)


def _said(value: Any) -> str:
    return "-" if value is None else str(value)


def _sides(found: Any, pair: Any) -> str:
    """How many images changed sides, in a line."""
    only = sum(one.only_first for one in pair.changed)
    what = "class" if pair.verdict == "fooled_class" else "class and explanation"
    first, second = pair.names
    return (
        f"fooled, {what}, in one alone: {only:,} only in {first}, "
        f"{len(pair.changed) - only:,} only in {second}"
    )
