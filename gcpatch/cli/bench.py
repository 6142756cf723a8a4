"""`gcpatch bench`: the throughput of this machine, in steps or in proven images, beside PyTorch's."""

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
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
STEPPED, FOOLED = "vgg19_bn", "mini_vgg"  # networks by default: for steps, and to success
MOST_STEPS = 200  # for an image
SUCCESS_HEAD = (
    "network",
    "patch",
    "mode",
    "fooled",
    "judged by",
    "images/h",
    "s/image",
    "steps",
    "90 %",
    "memory",
    "made once",
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
    parser.add_argument(
        "--networks",
        metavar="A,B,...",
        help=f"networks: by name with random weights, or what is converted (default {STEPPED}; with --to-success {FOOLED})",
    )
    for name, default, text in (
        ("sizes", "64", "the patch's sides in pixels"),
        ("batches", "8", "images at a time"),
    ):
        parser.add_argument(
            f"--{name}", default=default, metavar="A,B,...", help=f"{text} (default {default})"
        )
    parser.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="the median of N counts (default 5)"
    )
    parser.add_argument(
        "--to-success",
        action="store_true",
        help="measure fooled images an hour instead, proven on the PNG: of bundled minis on scenes, of what is converted on --images; a network with random weights gets an estimate from the first of these",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="IMAGES",
        help="with --to-success: photographs, as of `attack`",
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"with --to-success: the most steps for an image (default {MOST_STEPS})",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints a row for each network, size, batch and variant, or mode."""
    if options.to_success:
        return _to_success(options)
    if lone := next((name for name in ("images", "steps") if getattr(options, name)), None):
        raise UserError(f"--{lone} goes with --to-success")
    from gcpatch.attacks.regions import Patch
    from gcpatch.evaluation import bench
    from gcpatch.networks import NAMES, random

    sizes, batches = _numbers("sizes", options.sizes), _numbers("batches", options.batches)
    check_range("repeats", options.repeats, 1)
    networks = {
        name: random(name) if name in NAMES else load_network(name, None)
        for name in (options.networks or STEPPED).split(",")
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


def _to_success(options: argparse.Namespace) -> int:
    """Prints a row for each network, size, batch and mode."""
    from gcpatch.evaluation import bench

    steps = MOST_STEPS if options.steps is None else options.steps
    check_range("steps", steps, 1)
    rows = list(
        printing.track(
            rows_to_success(
                (options.networks or FOOLED).split(","),
                options.images,
                _numbers("sizes", options.sizes),
                _numbers("batches", options.batches),
                steps,
                modes_to_success(),
            ),
            " rows",
        )
    )
    if options.json:
        found = [row._asdict() for row in rows]
        printing.as_json({"machine": bench.machine(), "rows": found}, indent=1)
    else:
        printing.table(head=SUCCESS_HEAD, rows=map(success_cells, rows))
    return 0


def rows_to_success(
    names: Sequence[str],
    images: Sequence[str] | None,
    sizes: Sequence[int],
    batches: Sequence[int],
    steps: int,
    modes: Mapping[str, Any],
    count: int | None = None,
) -> Iterator[Any]:
    """The rows of `evaluation.success.compare` for networks as `--networks` names them.

    Raises:
        UserError: no network of them is trained, or there is nothing to attack one with.
    """
    from gcpatch.attacks.regions import Patch
    from gcpatch.attacks.settings import Attack
    from gcpatch.data import scenes
    from gcpatch.evaluation import success
    from gcpatch.networks import MINIS, NAMES, random

    drawn = [name for name in names if name in NAMES and name not in MINIS]
    trained = [load_network(n, None) for n in names if n not in drawn]
    if not trained:
        raise UserError(
            f"the weights of {', '.join(drawn)} are random here, and mean nothing to a patch; "
            f"add a trained network to --networks, as {FOOLED}, whose steps stand for theirs"
        )
    attacked = [
        (
            network,
            success.cases_of(
                network, images if network.categories != scenes.CATEGORIES else None, count=count
            ),
        )
        for network in trained
    ]
    for size, batch in itertools.product(sizes, batches):
        yield from success.compare(
            attacked,
            map(random, drawn),
            modes=modes,
            paces=measures_of_variants(),
            setting=success.Setting(Patch(size), Attack(objective="hide", steps=steps), batch),
            on_error=printing.warn,
        )


def modes_to_success() -> dict[str, Any]:
    """The modes: PyTorch's where it is installed, and gcpatch's."""
    from gcpatch.evaluation import success

    try:
        from convert import success as convert_success
    except (ImportError, UserError) as error:
        printing.warn(f"without PyTorch: {error}")
        return success.MODES
    return success.MODES | convert_success.MODES


def success_cells(row: Any) -> tuple[str, ...]:
    """A row of the table, as text."""
    about = "~" if row.estimate else ""
    return (
        row.network,
        f"{row.size} px",
        row.mode,
        f"{about}{row.fooled} of {row.images}",
        row.judged,
        f"{about}{row.images_per_hour:.4g}",
        f"{about}{row.seconds_per_image:.4g}" if row.seconds_per_image else "-",
        f"{about}{row.steps_median:.0f}",
        f"{about}{row.steps_90:.0f}",
        f"{row.peak_memory_bytes / 1e9:.2f} GB" if row.peak_memory_bytes else "-",
        f"{row.prepare_seconds:.0f} s",
    )


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
