"""`gcpatch bench`: the throughput of this machine, beside PyTorch's."""

import argparse
import itertools
from typing import Any

from gcpatch.cli import printing
from gcpatch.cli.inputs import load_network
from gcpatch.cli.options import add_json, add_verb, check_range
from gcpatch.errors import UserError

HEAD = (
    "network",
    "patch",
    "batch",
    "variant",
    "image-steps/s",
    "s/step",
    "memory",
    "compile",
    "inside the reach",
)


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = add_verb(
        verbs,
        "bench",
        run=run,
        summary="measure throughput here, beside PyTorch where it is installed",
        example="gcpatch bench --networks vgg19_bn,resnext101_32x8d --sizes 64,32 --batches 8",
    )
    for name, default, text in (
        ("networks", "vgg19_bn", "networks: by name with random weights, or what is converted"),
        ("sizes", "64", "the patch's sides in pixels"),
        ("batches", "8", "images at a time"),
    ):
        parser.add_argument(
            f"--{name}", default=default, metavar="A,B,...", help=f"{text} (default {default})"
        )
    parser.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="the median of N counts (default 5)"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints a row for each network, size, batch and variant."""
    from gcpatch.attacks.regions import Patch
    from gcpatch.evaluation import bench
    from gcpatch.networks import NAMES, random

    sizes, batches = _numbers("sizes", options.sizes), _numbers("batches", options.batches)
    check_range("repeats", options.repeats, 1)
    networks = {
        name: random(name) if name in NAMES else load_network(name, None)
        for name in options.networks.split(",")
    }
    for network, size in itertools.product(networks.values(), sizes):
        side = bench.side_of(network)
        Patch(size=size).corner(side, side)
    measures = measures_of_variants()
    tasks = [
        task
        for task in itertools.product(networks, sizes, batches, measures)
        if task[0] in NAMES or task[3] in bench.VARIANTS  # PyTorch attacks what is written out
    ]
    rows: list[dict[str, Any]] = []
    for name, size, batch, variant in printing.track(tasks, " measurements"):
        row = measures[variant](
            network=networks[name],
            size=size,
            batch=batch,
            variant=variant,
            repeats=options.repeats,
        )
        rows.append(row._asdict())
    if options.json:
        printing.as_json({"machine": bench.machine(), "rows": rows}, indent=1)
    else:
        printing.table(head=HEAD, rows=map(_cells, rows))
    return 0


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["network"],
        str(row["size"]),
        str(row["batch"]),
        row["variant"],
        f"{row['image_steps_per_second']:.2f}",
        f"{row['seconds_per_step']:.4f}",
        f"{row['peak_memory_bytes'] / 1e9:.2f} GB",
        f"{row['compile_seconds']:.1f} s",
        "" if row["computed_inside"] is None else f"{row['computed_inside']:.0%}",
    )


def measures_of_variants() -> dict[str, Any]:
    """What measures each variant: PyTorch where it is installed, and gcpatch."""
    from gcpatch.evaluation import bench

    measures = dict.fromkeys(bench.VARIANTS, bench.measure)
    try:
        from convert import bench as convert_bench
    except (ImportError, UserError) as error:
        printing.warn(f"without PyTorch: {error}")
        return measures
    return dict.fromkeys(convert_bench.VARIANTS, convert_bench.measure) | measures


def _numbers(what: str, text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--{what} is {text!r}; it must be whole numbers from 1, with commas")
    return list(map(int, parts))
