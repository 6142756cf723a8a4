"""`gcpatch attack`: adversarial patches for images."""

import argparse
from pathlib import Path
from typing import Any

from gcpatch.cli import printing
from gcpatch.cli.attack.parts import add_parts, part_of
from gcpatch.cli.attack.settings import add_settings, region_and_attack
from gcpatch.cli.attack.starts import AUTO, load_library, own_library, take_library
from gcpatch.cli.inputs import add_images_and_model, find_images, load_network
from gcpatch.cli.options import (
    add_budget,
    add_fields,
    add_json,
    add_verb,
    check_range,
    command,
    end_of_budget,
    given,
)
from gcpatch.errors import UserError
from gcpatch.runs.options import Options
from gcpatch.settings import choose

# Images at a time. On a CPU a step of 8 is 5 % faster an image with VGG16 (experiments/bench), but
# leaves more slots idle at the end of a run.
MOST_ON_CPU, MOST_ON_ACCELERATOR = 4, 512
MOST_SHOWN = 100  # records in the table on the terminal


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = add_verb(
        verbs,
        "attack",
        run=run,
        summary="make adversarial patches for images",
        example="gcpatch attack photos/ --model vgg19_bn --target 'tabby' --objective hide --out runs/hide",
    )
    add_images_and_model(parser)
    parser.set_defaults(again="go on with the same command and --resume")
    add_settings(parser)
    add_fields(parser, Options)
    parser.add_argument(
        "--batch",
        default="auto",
        metavar="N|auto",
        help=f"images optimised at a time; auto (default): {MOST_ON_ACCELERATOR}, on a CPU {MOST_ON_CPU}; halved where memory runs out",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    add_budget(parser)
    add_parts(parser)
    parser.add_argument(
        "--log-json", action="store_true", help="JSON lines on standard error instead of a bar"
    )
    parser.add_argument(
        "--tensorboard",
        type=Path,
        metavar="DIR",
        help="write losses, rates and panels for TensorBoard",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Attacks the images into a run's folder; returns 1 if one of them could not be done."""
    import jax

    from gcpatch.data import hints, labels
    from gcpatch.explainers.cam import map_shape
    from gcpatch.runs import campaign, progress
    from gcpatch.runs.board import Board
    from gcpatch.runs.journal import Journal

    until = end_of_budget(options)
    choose("resize mode", options.resize_mode)
    check_range("limit", options.limit, 1)
    start = take_library(options)
    region, attack = region_and_attack(options)
    how = Options(**given(options, Options))
    if how.target == labels.UNTARGETED:
        attack.check_untargeted(start)
    part = part_of(options)
    batch = _batch(options.batch)
    network = load_network(options.model, options.weights, how.seed)
    side = network.preprocessing.size
    region.place(side, side)
    map_shape(network, (side, side, 3), attack.layer)  # raises where there is none
    found = find_images(options, network, part.folder)
    labels.check(how.target, network.categories)
    whole, notes = hints.labelled(found.items, network.categories)
    whole = whole[: options.limit]  # labelled as without a limit, so that --resume may lift it
    items = whole[part.index - 1 :: part.count]
    library = None
    if start not in (None, AUTO):
        library, said = load_library(start, network, whole, how.target, region, attack)
        notes += said
    settings = {
        "model": network.name,
        "target": how.target,
        "seed": how.seed,
        "resize_mode": options.resize_mode,
        "precision": how.precision,
        "colormap": how.colormap,
        "shard": f"{part.index}/{part.count}",
    }
    if start is not None:
        settings["library"] = AUTO if library is None else library.digest
    described = campaign.describe([network], region, attack, settings, command=command())
    journal = Journal(part.folder, described, resume=options.resume)
    if start == AUTO:
        library = own_library(
            part.folder / "library", network, whole, region, attack, how, notes.append
        )
        journal.describe(library=None if library is None else library.digest)
    done, devices = sum(item.id in journal.done for item in items), jax.local_devices()
    board = options.tensorboard and Board(options.tensorboard, done, part.folder / "images")
    watch = progress.ConsoleProgress(len(items), done, log=options.log_json, board=board)
    shown: list[dict[str, Any]] = []
    with watch, watch.signals(until):
        for note in found.notes + notes:
            watch.note(note)
        for record in campaign.run(
            journal,
            network,
            items,
            region,
            attack,
            options=how,
            batch=min(batch, -(-len(items) // len(devices))),
            devices=devices if len(devices) > 1 else None,
            watch=watch,
            library=library,
        ):
            shown += [record] if len(shown) < MOST_SHOWN else []
    return conclude(journal, watch, shown, options)


def conclude(
    journal: Any, watch: Any, shown: list[dict[str, Any]], options: argparse.Namespace
) -> int:
    """Ends a run, with its summary and page where nobody stopped it; returns the exit status."""
    from gcpatch.report import page

    if watch.stopped:
        return printing.stopped(watch.stopped, options.verb, options.again)
    summary = journal.close()
    written = page.write_report(journal.folder)
    if options.json:
        printing.as_json(summary)
    else:
        printing.records(shown)
        printing.summary(summary)
        print(f"report: {written}")
    return 1 if summary["failed"] else 0


def _batch(text: str) -> int:
    """The slots to begin with; a device with less memory halves them."""
    import jax

    if text == "auto":
        return MOST_ON_CPU if jax.default_backend() == "cpu" else MOST_ON_ACCELERATOR
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"the batch is {text}; it must be auto or at least 1")
    return int(text)
