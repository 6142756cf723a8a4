"""`gcpatch verify`: networks, or a finished run, compared with PyTorch."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gcpatch.cli import printing
from gcpatch.cli.options import add_json, add_verb, check_range
from gcpatch.errors import UserError

HEAD = ("network", "quantity", "max abs", "relative", "tolerance", "passed")


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = add_verb(
        verbs,
        "verify",
        run=run,
        summary="compare networks, or a finished run, with PyTorch",
        example="gcpatch verify all --weights random --precision float64",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME|ALIAS|DIR|MODULE:FACTORY|all",
        help="networks, aliases, checkpoints' folders, torchvision:NAME, timm:NAME or functions that give a network; all: the paper's four and the four minis",
    )
    parser.add_argument(
        "--weights",
        metavar="random|DIR|ENUM|FILE",
        help="seeded random weights, a checkpoint's folder, torchvision's name of weights or PyTorch's file (default: the converted checkpoint beside the weights that it was made of)",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="a folder of images (default: scenes and random pixels)",
    )
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="with --images: only the first N of them (default: all)",
    )
    parser.add_argument(
        "--precision",
        default="float32",
        metavar="NAME",
        help="float32 (default) or float64; on accelerators also what `attack --precision help` lists, beside PyTorch's float32",
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="steps of each optimiser (default 10, for minis 30; 0: none); sign and adam for large networks",
    )
    parser.add_argument(
        "--run",
        dest="folder",
        type=Path,
        metavar="DIR",
        help="instead of networks, a run whose adversarial images PyTorch shall judge",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write a certificate: FILE.json and a page beside it, or FILE.html, the page alone",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints the comparison row by row; returns 1 where a tolerance is exceeded."""
    if bool(options.names) == bool(options.folder):
        raise UserError("name networks (or all), or a finished run with --run DIR")
    if options.limit is not None:
        check_range("limit", options.limit, 1)
        if not options.images:
            raise UserError("--limit says how many of --images to take; name their folder")
    if options.folder and options.out:
        raise UserError("--out is for networks; a run has its own report.html")
    from convert import verify
    from convert.checking import certificate

    if options.out:
        certificate.check(options.out)
    verified: list[Any] = []
    rows: list[Any] = []
    more: dict[str, Any] = {}
    if options.folder:
        rows, images, differing = verify.verify_run(options.folder, options.weights)
        more = {"images": images, "differing": differing}
        if not options.json:
            _print(rows)
            print(f"PyTorch agrees on {images - len(differing)} of {images} images")
    names = verify.names_of(options.names, options.weights)
    if options.images:
        verify.announce(options.images, options.limit, printing.warn)
    for name in names:
        found = verify.verify(
            name,
            weights=options.weights,
            folder=options.images,
            limit=options.limit,
            precision=options.precision,
            steps=options.steps,
        )
        verified.append(found)
        rows += found.rows
        if found.theirs is None:
            printing.warn(f"{found.network.name}: {found.beside}", options.verb)
        if not options.json:
            _print(found.rows)
    if options.out:
        certificate.write(options.out, verified)
    firsts: dict[str, Any] = {}
    for row in rows:
        if not row.passed:
            firsts.setdefault(row.network, row)
    others = {one.network.name: "itself" for one in verified if one.theirs is None}
    for name, row in firsts.items():
        printing.warn(
            f"{name} parts from {others.get(name, 'PyTorch')} at {row.quantity}: relative error {row.relative:.1e}, "
            f"tolerance {row.tolerance:.0e}"
        )
    for identity in more.get("differing", ()):
        printing.warn(f"PyTorch differs on {identity}")
    if options.json:
        first = next(iter(firsts.values()), None)
        answer = {
            "passed": first is None,
            "rows": [certificate.finite(row._asdict()) for row in rows],
            "first_difference": first and certificate.finite(first._asdict()),
        }
        printing.as_json(answer | more, indent=1)
    return 1 if firsts else 0


def _print(rows: Sequence[Any]) -> None:
    printing.table(head=HEAD, rows=map(_cells, rows))


def _cells(row: Any) -> tuple[str, ...]:
    errors = (f"{row.max_abs:.1e}", f"{row.relative:.1e}", f"{row.tolerance:.0e}")
    return (row.network, row.quantity, *errors, "yes" if row.passed else "NO")
