"""The images and the network that a verb works on: their options, and what these name."""

import argparse
from pathlib import Path
from typing import Any

from gcpatch.cli import printing
from gcpatch.cli.options import add_named
from gcpatch.errors import UserError


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Adds `--weights`, which means the same wherever it is."""
    parser.add_argument(
        "--weights",
        metavar="random|DIR|ENUM|FILE",
        help="seeded random weights, a checkpoint's folder, torchvision's name of weights or PyTorch's file (default: what `gcpatch convert` made)",
    )


def add_images(parser: argparse.ArgumentParser) -> None:
    """Adds the images, and how they get their size."""
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="image files, folders, globs, brace lists ({00..09}), manifests (.csv, .jsonl), archives (.tar, .tar.gz) or addresses (s3://bucket/photos/)",
    )
    add_named(
        parser,
        "--resize-mode",
        registry="resize mode",
        text="how an image gets the size that the network takes: as the paper (default stretch), or as torchvision",
        metavar="MODE",
        default="stretch",
    )


def add_model(parser: argparse.ArgumentParser, more: str = "", **how: Any) -> None:
    """Adds `--model`, whose help ends with `more`, and `--weights`; `how` is for `add_argument`."""
    parser.add_argument(
        "--model",
        metavar="NAME|ALIAS|DIR|MODULE:FACTORY",
        help=f"a network or an alias, as `gcpatch models` lists them, a checkpoint's folder, or a function that gives a gcpatch.Network{more}",
        **how,
    )
    add_weights(parser)


def add_images_and_model(parser: argparse.ArgumentParser) -> None:
    """Adds the images and how many of them, the network, and the folder to write to."""
    add_images(parser)
    parser.add_argument(
        "--limit", type=int, metavar="N", help="take only the first N images, before any --shard"
    )
    add_model(parser, required=True)
    add_out(parser)


def add_out(parser: argparse.ArgumentParser) -> None:
    """Adds the folder to write to."""
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the folder to write to"
    )


def load_network(model: str, weights: str | None, seed: int = 0) -> Any:
    """The network that `--model` and `--weights` name, in every verb alike.

    Args:
        model: a network's name, an alias, a checkpoint's folder, or `module:factory`, a function
            that gives a `gcpatch.Network`.
        weights: a checkpoint's folder, "random", torchvision's name of weights, or PyTorch's file
            of them, both of which are converted on the spot; None for what was converted.
        seed: of random weights.

    Raises:
        UserError: there is no such network, or no such weights.
    """
    from gcpatch.networks import checkpoints, factories

    if factories.is_spec(model):
        if weights is not None:
            raise UserError(f"--weights goes with a network's name; {model} has its own")
        return factories.load(model)
    if weights in (None, "random") or Path(weights).expanduser().is_dir():
        return checkpoints.load(model, weights, seed=seed)
    from convert import specs

    converted = specs.convert(model, weights)
    for note in converted.notes:
        printing.warn(note)
    return converted.network


def find_images(options: argparse.Namespace, network: Any, without: Path) -> Any:
    """The images that the options name, to be read as the network takes them."""
    from gcpatch.data import sources

    taken = network.preprocessing
    return sources.find(
        options.images,
        taken.size,
        options.resize_mode,
        without,
        resize=taken.resize,
        interpolation=taken.interpolation,
    )
