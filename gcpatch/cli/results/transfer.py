"""`gcpatch transfer`: a run's adversarial images before other networks and explainers."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gcpatch.cli import printing
from gcpatch.cli.inputs import add_weights, load_network
from gcpatch.cli.options import add_json, add_named, add_verb, check_range, writing_to
from gcpatch.errors import UserError
from gcpatch.settings import choose


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = add_verb(
        verbs,
        "transfer",
        run=run,
        summary="show a run's adversarial images to other networks and explainers",
        example="gcpatch transfer runs/hide --models mini_vgg,mini_resnext --methods grad-cam,layercam --out runs/transfer",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders that `attack` wrote"
    )
    parser.add_argument(
        "--models",
        required=True,
        metavar="NAME,...",
        help="the networks to show them to; they must know the run's targets by name",
    )
    add_weights(parser)
    add_named(
        parser,
        "--methods",
        registry="method",
        text="the explainers (default grad-cam)",
        metavar="NAME,...",
        default="grad-cam",
    )
    parser.add_argument(
        "--defences",
        metavar="NAME,...",
        help="what the images go through first, beside nothing: jpeg-QUALITY, blur-SIGMA, bits-N, crop-PERCENT",
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="only the first N images of each run"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write transfer.jsonl, transfer.csv and transfer.png",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints how many images fool each network and explainer, and writes the single results."""
    from gcpatch.evaluation import transfer
    from gcpatch.evaluation.defences import defence
    from gcpatch.report import matrix, records

    methods = [choose("method", method) for method in options.methods.split(",")]
    if options.images is not None:
        check_range("images", options.images, 1)
    names = options.defences.split(",") if options.defences else []
    for name in names:
        defence(name)  # raises where there is none
    networks = [load_network(name, options.weights) for name in options.models.split(",")]
    defences = [transfer.NONE, *names]
    attacked = [
        image for folder in options.runs for image in records.attacked(folder, options.images)
    ]
    for network in networks:
        _check_sizes(attacked, network)
    rows = list(
        printing.track(transfer.transfer(attacked, networks, methods, defences), unit=" maps")
    )
    if not rows:
        raise UserError("the runs have no adversarial images")
    means = transfer.summarise(rows)
    if options.out:
        with writing_to(options.out):
            matrix.write(options.out, rows, means)
    if options.json:
        printing.as_json(means)
    else:
        printing.table(head=matrix.HEAD, rows=map(matrix.line, means))
    return 0


def _check_sizes(attacked: Sequence[Any], network: Any) -> None:
    """Raises UserError where a run's images are not of the size that a network takes."""
    from gcpatch.data.images import read_png

    for one in {image.run: image for image in attacked}.values():
        found, wanted = read_png(one.picture).shape[0], network.preprocessing.size
        if found != wanted:
            raise UserError(
                f"the images of {one.run} have {found} pixels a side and {network.name} takes "
                f"{wanted}; a patch is only transferred between networks of the same size"
            )
