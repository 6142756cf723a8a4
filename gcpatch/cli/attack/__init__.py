"""`gcpatch attack`: adversarial patches for images."""

import argparse
from pathlib import Path
from typing import Any

from gcpatch.cli import printing
from gcpatch.cli.attack.parts import add_parts, part_of
from gcpatch.cli.attack.settings import add_settings, region_and_attack
from gcpatch.cli.options import (
    IMAGE_SIZE,
    MOST_SEED,
    add_images_and_model,
    add_json,
    add_named,
    add_verb,
    check_range,
    choose,
    command,
)
from gcpatch.errors import UserError

MOST_ON_CPU, MOST_ON_ACCELERATOR = 8, 512  # images at a time; more is no faster
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
    parser.add_argument(
        "--target",
        default="random",
        metavar="NAME|ID|random|least-likely|runner-up",
        help="the class that each image shall be taken for, unless a manifest says (default random)",
    )
    add_settings(parser)
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default 0)")
    parser.add_argument(
        "--batch",
        default="auto",
        metavar="N|auto",
        help=f"images optimised at a time; auto (default): {MOST_ON_ACCELERATOR}, on a CPU {MOST_ON_CPU}; halved where memory runs out",
    )
    add_named(
        parser,
        "--precision",
        registry="precision",
        text="of the optimisation on accelerators (default float32); verdicts are always in float32",
        default="float32",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    parser.add_argument(
        "--checkpoint-every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how often what is under way is kept for --resume (default 60)",
    )
    add_parts(parser)
    parser.add_argument(
        "--log-json", action="store_true", help="JSON lines on standard error instead of a bar"
    )
    parser.add_argument(
        "--tensorboard", type=Path, metavar="DIR", help="write scalars for TensorBoard"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Attacks the images into a run's folder; returns 1 if one of them could not be done."""
    import jax

    from gcpatch.data import hints, labels, sources
    from gcpatch.networks import checkpoints
    from gcpatch.report import page
    from gcpatch.runs import campaign, progress
    from gcpatch.runs.journal import Journal

    choose("resize mode", options.resize_mode)
    choose("precision", options.precision)
    check_range("seed", options.seed, 0, MOST_SEED)
    region, attack = region_and_attack(options)
    region.place(IMAGE_SIZE, IMAGE_SIZE)
    if not options.checkpoint_every > 0:
        raise UserError(f"--checkpoint-every is {options.checkpoint_every}; it must be over 0")
    part = part_of(options)
    batch = _batch(options.batch)
    found = sources.find(options.images, IMAGE_SIZE, options.resize_mode, part.folder)
    network = checkpoints.load(options.model, options.weights, seed=options.seed)
    labels.check(options.target, network.categories)
    items, notes = hints.labelled(found.items, network.categories)
    items = items[part.index - 1 :: part.count]
    asked = {name: vars(options)[name] for name in ("target", "seed", "resize_mode", "precision")}
    settings = {"model": network.name, **asked, "shard": f"{part.index}/{part.count}"}
    described = campaign.describe([network], region, attack, settings, command=command())
    journal = Journal(part.folder, described, resume=options.resume)
    done, devices = sum(item.id in journal.done for item in items), jax.local_devices()
    watch = progress.ConsoleProgress(
        len(items), done, log=options.log_json, tensorboard=options.tensorboard
    )
    shown: list[dict[str, Any]] = []
    with watch, watch.signals():
        for note in found.notes + notes:
            watch.note(note)
        for record in campaign.run(
            journal,
            network,
            items,
            region,
            attack,
            target=options.target,
            seed=options.seed,
            batch=min(batch, -(-len(items) // len(devices))),
            precision=options.precision,
            devices=devices if len(devices) > 1 else None,
            every=options.checkpoint_every,
            watch=watch,
        ):
            shown += [record] if len(shown) < MOST_SHOWN else []
    if watch.stopped:
        printing.warn(f"stopped; {options.again}", options.verb)
        return 128 + watch.stopped
    summary = journal.close()
    written = page.write_report(part.folder)
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
