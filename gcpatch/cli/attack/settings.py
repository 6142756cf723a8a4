"""The options that are settings of an attack, and the patch and the attack that they ask for.

Each is named as the field of `Patch`, of another region, or of `Attack` that it sets. Those that
are not given stay as the preset has them, or as the classes do.
"""

import argparse
import dataclasses
import importlib
import sys
from typing import Any

from gcpatch.cli.options import add_named, choose
from gcpatch.errors import UserError

OF_A_PATCH = ("size", "ratio", "position")
OF_AN_ATTACK = ("steps", "learning_rate", "ce_weight", "init")
# The options that take the patch's place, each with the options of a patch that go with it.
IN_ITS_PLACE = {"frame": ("ratio",), "mask": ("ratio",), "linf": ()}

NAMES = (  # flag, what goes with it, help; the flag is the registry's name too
    ("preset", "NAME", "settings of the paper or of [16], which other options change"),
    (
        "objective",
        "NAME|MODULE:FUNCTION",
        "the loss (default hide), or a function of gcpatch.Evidence",
    ),
    ("position", "CORNER|ROW,COL", "a corner (default top-right), or the patch's top left pixel"),
    ("optimizer", "NAME", "how the patch is optimised (default adam)"),
    ("init", "START", "the patch at first (default mean)"),
)
NUMBERS: tuple[tuple[str, type, str, str], ...] = (
    ("size", int, "PIXELS", "the patch's side (default 64)"),
    ("ratio", float, "P", "the patch's share in its pixels, over 0 to 1 (default 1.0)"),
    ("steps", int, "N", "the most steps for an image (default 1000)"),
    ("learning-rate", float, "RATE", "the optimiser's step in normalised units (default: its own)"),
    ("ce-weight", float, "ALPHA", "the weight of the cross-entropy (paper, eq. 5; default 0.05)"),
)
PLACES: tuple[tuple[str, type, str, str], ...] = (
    ("frame", int, "PIXELS", "a frame of this width"),
    ("mask", str, "FILE.png", "wherever this picture is white"),
    ("linf", int, "LEVELS", "the whole image, each pixel by at most so many 8-bit levels"),
)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    for name, metavar, text in NAMES:
        add_named(parser, f"--{name}", registry=name, metavar=metavar, text=text)
    for name, kind, metavar, text in NUMBERS:
        parser.add_argument(f"--{name}", type=kind, metavar=metavar, help=text)
    regions = parser.add_mutually_exclusive_group()
    for name, kind, metavar, text in PLACES:
        regions.add_argument(
            f"--{name}", type=kind, metavar=metavar, help=f"instead of a patch, {text}"
        )


def region_and_attack(options: argparse.Namespace) -> tuple[Any, Any]:
    """The `Region` where the perturbation lies and how it is optimised, as the options ask.

    Raises:
        UserError: a value is unknown or out of range, or two options exclude each other.
    """
    from gcpatch.attacks.presets import PRESETS
    from gcpatch.attacks.regions import Patch
    from gcpatch.attacks.settings import Attack

    patch, attack = (
        PRESETS[choose("preset", options.preset)] if options.preset else (Patch(), Attack())
    )
    if options.optimizer:  # another one has a learning rate of its own
        attack = dataclasses.replace(attack, optimizer=options.optimizer, learning_rate=None)
    given = _given(options, OF_AN_ATTACK)
    if options.objective:
        given["objective"] = objective(options.objective)
    return _region(options, patch), dataclasses.replace(attack, **given)


def _given(options: argparse.Namespace, fields: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name in fields if (value := getattr(options, name)) is not None}


def _region(options: argparse.Namespace, patch: Any) -> Any:
    """`patch`, changed as the options ask, or what takes its place."""
    from gcpatch.attacks.regions import Bounded, Frame, Mask

    given = _given(options, OF_A_PATCH)
    for name, kind in (("frame", Frame), ("mask", Mask), ("linf", Bounded)):
        if (value := getattr(options, name)) is None:
            continue
        for field in given.keys() - set(IN_ITS_PLACE[name]):
            raise UserError(f"--{field} and --{name} exclude each other")
        return kind(value, **given)
    if options.position:
        given["position"] = _position(options.position)
    return dataclasses.replace(patch, **given)


def objective(text: str) -> Any:
    """An objective's name as it is, or the function that MODULE:FUNCTION names.

    Raises:
        UserError: there is no such function.
    """
    module, colon, name = text.partition(":")
    if not colon:
        return text
    sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a user's module raises
        raise UserError(f"there is no objective {text!r}: {error}") from None


def _position(text: str) -> str | tuple[int, int]:
    row, comma, column = text.partition(",")
    if not comma:
        return text
    try:
        return int(row), int(column)
    except ValueError:
        raise UserError(f"the position {text!r} is not ROW,COLUMN in whole numbers") from None
