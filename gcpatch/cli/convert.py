"""`gcpatch convert`: PyTorch's weights into a checkpoint, and back."""

import argparse
from pathlib import Path
from typing import Any

from gcpatch.cli.options import add_verb


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = add_verb(
        verbs,
        "convert",
        run=run,
        summary="turn torchvision weights into a checkpoint, or back",
        example="gcpatch convert vgg19_bn --weights vgg19_bn-c79401a0.pth",
    )
    parser.add_argument("name", metavar="NAME", help="a network; `gcpatch models` lists them")
    parser.add_argument(
        "--weights",
        metavar="ENUM|FILE.pth",
        help="torchvision's name of the weights (default IMAGENET1K_V1, downloaded), a state_dict, or random; with --to-torch a checkpoint folder",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write (default: the user's cache, where `--model NAME` finds it)",
    )
    parser.add_argument(
        "--to-torch",
        action="store_true",
        help="write the checkpoint back as a state_dict, NAME.pth",
    )


def run(options: argparse.Namespace) -> int:
    """Writes a checkpoint, or with `--to-torch` a state_dict."""
    from gcpatch.networks import checkpoints, create, random

    create(options.name)
    if options.to_torch:
        from convert import torchvision

        path = (options.out or Path()) / f"{options.name}.pth"
        torchvision.save_torch(checkpoints.load(options.name, options.weights), path)
        print(f"{options.name} as a state_dict: {path}")
        return 0
    if options.weights == "random":
        network, source, versions = random(options.name), "random seed 0", None
    else:
        from convert import torchvision

        weights = options.weights or "IMAGENET1K_V1"
        state, categories, source = torchvision.load_weights(options.name, weights)
        network = torchvision.from_torch(state, options.name, categories)
        versions = torchvision.VERSIONS
    folder = options.out or checkpoints.home() / options.name
    checkpoints.save(network, folder, source, versions)
    print(f"{options.name} from {source}: {folder}")
    return 0
