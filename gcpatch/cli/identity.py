"""The options that say what a network is beside its weights: its images, classes, layer, name."""

import argparse
import math
from pathlib import Path
from typing import Any

from gcpatch.errors import UserError

SETTINGS: tuple[tuple[str, str, str], ...] = (  # flag, what goes with it, help
    ("mean", "R,G,B", "the channels' means in pixels of 0 to 1 (default: torchvision's)"),
    ("std", "R,G,B", "their standard deviations (default: torchvision's)"),
    ("size", "PIXELS", "the side of the images that the network takes (default 224)"),
    ("resize", "PIXELS", "the shorter side before `--resize-mode crop` cuts (default 256)"),
    ("interpolation", "NAME", "of that resizing: bilinear (default) or bicubic"),
    ("classes", "FILE", "the classes' names: one a line, or JSON"),
    ("layer", "NAME", "the layer that Grad-CAM explains (default: the last map)"),
    ("name", "ALIAS", "a name of its own, which `--model ALIAS` finds"),
)


def add_identity(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    for name, metavar, text in SETTINGS:
        parser.add_argument(f"--{name}", metavar=metavar, help=text)


def identity_of(options: argparse.Namespace) -> Any:
    """What the options say of the network.

    Raises:
        UserError: a value cannot be read.
    """
    from convert.settings import Settings, check_alias, read_categories
    from gcpatch.networks.network import INTERPOLATIONS

    check_alias(options.name)
    if options.interpolation not in (None, *INTERPOLATIONS):
        choices = ", ".join(INTERPOLATIONS)
        raise UserError(
            f"there is no interpolation {options.interpolation!r}; choose one of {choices}"
        )
    return Settings(
        mean=_channels("mean", options.mean),
        std=_channels("std", options.std),
        size=_pixels("size", options.size),
        resize=_pixels("resize", options.resize),
        interpolation=options.interpolation,
        categories=read_categories(Path(options.classes)) if options.classes else None,
        layer=options.layer,
        name=options.name,
    )


def _channels(what: str, text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        red = green = blue = math.nan
    if not math.isfinite(red + green + blue):
        raise UserError(f"--{what} is {text!r}; it must be three numbers, R,G,B, as 0.5,0.5,0.5")
    return red, green, blue


def _pixels(what: str, text: str | None) -> int | None:
    if text is not None and not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise UserError(f"--{what} is {text!r}; it must be a whole number of pixels from 1")
    return None if text is None else int(text)
