"""`gcpatch apply`: a saved patch over other photographs, and before a network."""

import argparse
from pathlib import Path
from typing import Any

from gcpatch.cli import printing
from gcpatch.cli.attack import MOST_SHOWN, conclude
from gcpatch.cli.inputs import add_images, add_model, add_out, find_images, load_network
from gcpatch.cli.options import add_json, add_verb, command, writing_to
from gcpatch.errors import UserError
from gcpatch.settings import choose


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = add_verb(
        verbs,
        "apply",
        run=run,
        summary="lay a saved patch over images; with --model also judge it as `attack` does",
        example="gcpatch apply patch.npz photos/ --model vgg19_bn --out runs/applied",
    )
    parser.add_argument("patch", type=Path, metavar="PATCH.npz", help="what `universal` wrote")
    add_images(parser)
    add_model(parser, "; without one only the pictures are written")
    add_out(parser)
    parser.add_argument(
        "--target", metavar="NAME|ID", help="whose patch to take, where the file holds several"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    parser.set_defaults(again="go on with the same command and --resume")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Writes the images with the patch; returns 1 if one of them could not be done."""
    from gcpatch.attacks.patches import Library

    choose("resize mode", options.resize_mode)
    patch = _only(Library.load(options.patch), options)
    return _pictures(patch, options) if options.model is None else _judge(patch, options)


def _only(library: Any, options: argparse.Namespace) -> Any:
    """The patch that the options name."""
    names = [patch.target_name for patch in library.values()]
    for patch in library.values():
        if options.target in (patch.target_name, str(patch.target)):
            return patch
    if options.target is None and len(library) == 1:
        return next(iter(library.values()))
    what = "none" if options.target is None else f"{options.target!r}"
    raise UserError(
        f"{options.patch} holds the patches of {', '.join(map(str, names))}; --target is {what}"
    )


def _pictures(patch: Any, options: argparse.Namespace) -> int:
    import numpy as np

    from gcpatch.data import images, sources

    height, width = patch.origin.image_size
    if height != width:
        raise UserError(
            f"{options.patch} is for images of {height}x{width}; those of files are made square"
        )
    found = sources.find(options.images, height, options.resize_mode, options.out)
    for note in found.notes:
        printing.warn(note, options.verb)
    rows: list[dict[str, Any]] = []
    for item in printing.track(found.items):
        row: dict[str, Any] = {"id": item.id, "source": item.source, "error": None}
        rows.append(row)
        try:
            pixels = item.read().pixels
        except UserError as error:
            row["error"] = item.blame(error)
            printing.warn(row["error"], options.verb)
            continue
        attacked = np.rint(patch.apply(pixels.astype(np.float32) / 255) * 255).astype(np.uint8)
        with writing_to(options.out):
            options.out.mkdir(parents=True, exist_ok=True)
            images.write_png(options.out / f"{item.id}.png", attacked)
    failed = sum(row["error"] is not None for row in rows)
    if options.json:
        printing.as_json(rows)
    else:
        print(f"{len(rows) - failed} images, {failed} failed: {options.out}")
    return 1 if failed else 0


def _judge(patch: Any, options: argparse.Namespace) -> int:
    from gcpatch.attacks.patches import Library, attack_of
    from gcpatch.data import hints, labels
    from gcpatch.explainers.cam import map_shape
    from gcpatch.runs import campaign, progress
    from gcpatch.runs.journal import Journal

    if patch.target is None and not patch.untargeted:
        raise UserError(f"{options.patch} is for several targets; leave out --model")
    network = load_network(options.model, options.weights)
    note, attack = patch.check(network), attack_of(patch.origin)
    side = network.preprocessing.size
    patch.place(side, side)
    map_shape(network, (side, side, 3), attack.layer)  # raises where there is none
    found = find_images(options, network, options.out)
    items, notes = hints.labelled(found.items, network.categories)
    settings = {
        "model": network.name,
        "target": labels.UNTARGETED if patch.untargeted else patch.target_name,
        "resize_mode": options.resize_mode,
        "applied": Library([patch]).digest,
        "made_for": patch.origin.networks,
    }
    described = campaign.describe([network], patch, attack, settings, command=command())
    journal = Journal(options.out, described, resume=options.resume)
    done = sum(item.id in journal.done for item in items)
    records: list[dict[str, Any]] = []
    watch = progress.ConsoleProgress(len(items), done)
    with watch, watch.signals():
        for text in (*found.notes, *notes, *filter(None, [note])):
            watch.note(text)
        for record in campaign.judge(journal, network, items, patch, attack, watch=watch):
            records += [record] if len(records) < MOST_SHOWN else []
    return conclude(journal, watch, records, options)
