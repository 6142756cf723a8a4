"""`gcpatch explain`: the heatmaps of each image's class."""

import argparse
from typing import Any

from gcpatch.cli import printing
from gcpatch.cli.attack.parts import add_parts, part_of
from gcpatch.cli.inputs import add_images_and_model, find_images, load_network
from gcpatch.cli.options import (
    add_budget,
    add_json,
    add_named,
    add_verb,
    check_range,
    command,
    end_of_budget,
)
from gcpatch.errors import UserError
from gcpatch.settings import choose

MOST_ON_CPU, MOST_ON_ACCELERATOR = 8, 64  # images at a time; more is no faster
MOST_SHOWN = 100  # images in the table on the terminal


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = add_verb(
        verbs,
        "explain",
        run=run,
        summary="draw the explanation of each image's class",
        example="gcpatch explain photos/ --model vgg19_bn --methods grad-cam,layercam --out maps",
    )
    add_images_and_model(parser)
    parser.set_defaults(again="go on with the same command and --resume")
    for flag, metavar, text in (
        (
            "--method",
            "NAME",
            "the explainer (default grad-cam); pictures show what is over 0, heat.npy is the map itself",
        ),
        ("--methods", "NAME,...", "several explainers, side by side on one page"),
    ):
        add_named(parser, flag, registry="method", text=text, metavar=metavar)
    parser.add_argument(
        "--faithfulness",
        action="store_true",
        help="measure each map: deletion, insertion and ROAD, which takes 76 evaluations of the network a map",
    )
    add_named(
        parser,
        "--colormap",
        registry="colormap",
        text="the pictures' colours (default jet, the paper's)",
        default="jet",
    )
    parser.add_argument(
        "--label",
        metavar="NAME|ID|top",
        help="the class to explain, top for each image's own top class (default: its label in a manifest, else top)",
    )
    parser.add_argument(
        "--batch",
        default="auto",
        metavar="N|auto",
        help=f"images explained at a time; auto (default): {MOST_ON_ACCELERATOR}, on a CPU {MOST_ON_CPU}; halved where memory runs out",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    add_budget(parser)
    add_parts(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Explains the images into a run's folder; returns 1 if one of them could not be done."""
    import jax

    from gcpatch.data import labels
    from gcpatch.report import summary
    from gcpatch.report.explained import page
    from gcpatch.runs import explaining, progress
    from gcpatch.runs.journal import Journal

    until = end_of_budget(options)
    choose("colormap", options.colormap)
    choose("resize mode", options.resize_mode)
    check_range("limit", options.limit, 1)
    methods = _methods(options)
    batch = _batch(options.batch, jax.default_backend())
    part = part_of(options)
    network = load_network(options.model, options.weights)
    if options.label not in (None, explaining.TOP):
        labels.find(options.label, network.categories)
    items, notes = find_images(options, network, part.folder)
    items = items[: options.limit][part.index - 1 :: part.count]
    settings = {
        "methods": list(methods),
        "label": options.label,
        "faithfulness": options.faithfulness,
        "resize_mode": options.resize_mode,
        "colormap": options.colormap,
        "shard": f"{part.index}/{part.count}",
    }
    described = explaining.describe(network, settings, command=command())
    journal = Journal(part.folder, described, resume=options.resume)
    done = sum(item.id in journal.done for item in items)
    watch = progress.ConsoleProgress(len(items), done, doing="explaining")
    with watch, watch.signals(until):
        for note in notes:
            watch.note(f"gcpatch {options.verb}: {note}")
        for _ in explaining.run(
            journal,
            network,
            items,
            methods=methods,
            label=options.label,
            faithful=options.faithfulness,
            colormap=options.colormap,
            batch=min(batch, max(1, len(items) - done)),
            watch=watch,
        ):
            pass
    if watch.stopped:
        return printing.stopped(watch.stopped, options.verb, options.again)
    found = summary.write_summary(part.folder, journal.records())
    place = {item.id: n for n, item in enumerate(items)}
    rows = sorted(
        (record for record in journal.records() if record["id"] in place),
        key=lambda record: place[record["id"]],
    )
    journal.release()
    written = page.write_report(part.folder)
    if options.json:
        printing.as_json(rows)
    else:
        printing.table(head=("image", "class", "probability"), rows=map(_cells, rows[:MOST_SHOWN]))
        print(f"{found['images']} images, {found['failed']} failed")
        if options.faithfulness:
            _print_means(found.get("methods", {}))
        print(f"report: {written}")
    return 1 if found["failed"] else 0


def _methods(options: argparse.Namespace) -> tuple[str, ...]:
    """The explainers, each once, in the order in which they are named."""
    if options.method and options.methods:
        raise UserError("--method and --methods exclude each other")
    names = (options.methods or options.method or "grad-cam").split(",")
    return tuple(dict.fromkeys(choose("method", name.strip()) for name in names))


def _batch(text: str, backend: str) -> int:
    if text == "auto":
        return MOST_ON_CPU if backend == "cpu" else MOST_ON_ACCELERATOR
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"the batch is {text}; it must be auto or at least 1")
    return int(text)


def _cells(row: dict[str, Any]) -> tuple[str, str, str]:
    if row["error"]:
        return row["id"], row["error"], ""
    return row["id"], row["label"]["name"], f"{row['probability']:.3f}"


def _print_means(methods: dict[str, dict[str, list[float]]]) -> None:
    """The means over the images, with their 95 % intervals."""
    names = list(next(iter(methods.values()), {}))
    printing.table(
        head=("method", *names),
        rows=(
            (method, *(f"{m:.3f} [{low:.3f}, {high:.3f}]" for m, low, high in means.values()))
            for method, means in methods.items()
        ),
    )
