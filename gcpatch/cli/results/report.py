"""`gcpatch report`: the summary and the page of a run, or of several as one."""

import argparse
from pathlib import Path
from typing import Any

from gcpatch.cli.options import add_named, add_verb, writing_to
from gcpatch.cli.printing import warn
from gcpatch.errors import UserError
from gcpatch.settings import choose


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = add_verb(
        verbs,
        "report",
        run=run,
        summary="(re)build the summary and report.html of a run, or of several as one",
        example="gcpatch report runs/hide --export hide.csv\n"
        "  gcpatch report host-a/hide host-b/hide --out runs/hide-all",
    )
    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="a run's folder, or one with the parts of a campaign in folders part-*",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to write (default: DIR, if it is one)"
    )
    add_named(
        parser,
        "--colormap",
        registry="colormap",
        text="the colours of the page's maps (default: those of the run's pictures)",
    )
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="all records as .csv or .parquet"
    )


def run(options: argparse.Namespace) -> int:
    """Writes the page and the summary, or all records as a table, and prints where."""
    from gcpatch.report import export, page, records, summary
    from gcpatch.report.explained import page as explained

    if options.colormap:
        choose("colormap", options.colormap)
    folder = options.out or (options.folders[0] if len(options.folders) == 1 else None)
    if options.export:
        export.check(options.export)
    elif folder is None:
        raise UserError("several runs as one need --out FOLDER for their page, or --export FILE")
    if folder and [folder] != options.folders and (folder / "run.json").exists():
        raise UserError(f"{folder} holds a run of its own; choose another folder for --out")
    left_out: list[str] = []
    gathered = records.gather(options.folders, left_out.append)
    if options.export:
        export.write_export(gathered.records, options.export)
        print(options.export)
    if folder:
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            summary.write_summary(folder, gathered.records)
            if explained.methods_of(gathered):
                print(explained.write_page(gathered, folder, left_out.append))
            else:
                print(page.write_page(gathered, folder, left_out.append, options.colormap))
    if left_out:
        warn(records.notes(left_out), options.verb)
    return 0
