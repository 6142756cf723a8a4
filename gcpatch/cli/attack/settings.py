"""The options that are settings of an attack, and the region and the attack that they ask for.

Each is a field of `Patch`, of another region, or of `Attack`, which says what it means
(`gcpatch.settings`). Those that are not given stay as the preset has them, or as the classes do.
"""

import argparse
import dataclasses
from typing import Any

from gcpatch.attacks import regions
from gcpatch.attacks.fields import Fields
from gcpatch.attacks.regions import Patch
from gcpatch.cli.options import add_fields, add_named, given
from gcpatch.errors import UserError
from gcpatch.settings import choose, settings_of

# The options that take the patch's place: each is the first setting of its kind of region.
IN_ITS_PLACE = {name: kind for name, kind in regions.KINDS.items() if kind is not Patch}


def add_settings(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """Adds the options; `defaults` are a verb's own, of `Attack`."""
    text = "settings of the paper or of [16], which other options change"
    add_named(parser, "--preset", registry="preset", text=text)
    add_fields(parser, Patch)
    add_fields(parser, Fields, **defaults)
    instead = parser.add_mutually_exclusive_group()
    for name, kind in IN_ITS_PLACE.items():
        about = next(settings_of(kind))[1]
        instead.add_argument(
            f"--{name}",
            type=about.parse,
            metavar=about.value,
            help=f"instead of a patch: {about.text}",
        )


def region_and_attack(options: argparse.Namespace, **defaults: Any) -> tuple[Any, Any]:
    """The `Region` where the perturbation lies and how it is optimised, as the options ask.

    What they leave open is as the preset has it, or as `defaults`, or as the classes.

    Raises:
        UserError: a value is unknown or out of range, or two options exclude each other.
    """
    from gcpatch.attacks.presets import PRESETS
    from gcpatch.attacks.settings import Attack

    patch, attack = (
        PRESETS[choose("preset", options.preset)]
        if options.preset
        else (Patch(), Attack(**defaults))
    )
    asked = given(options, Fields)
    if "optimizer" in asked:  # another one has a learning rate of its own
        asked = {"learning_rate": None} | asked
    if "objective" in asked:
        asked["objective"] = objective(asked["objective"])
    region, attack = _region(options, patch), dataclasses.replace(attack, **asked)
    if attack.reach != "exact" and not isinstance(region, Patch):
        raise UserError(f"--reach {attack.reach} is for a square patch; leave it out")
    return region, attack


def _region(options: argparse.Namespace, patch: Any) -> Any:
    """`patch`, changed as the options ask, or what takes its place."""
    asked = given(options, Patch)
    for name, kind in IN_ITS_PLACE.items():
        if (value := getattr(options, name)) is None:
            continue
        for other in asked.keys() - {each.name for each in dataclasses.fields(kind)}:
            raise UserError(f"--{other} and --{name} exclude each other")
        return kind(value, **asked)
    return dataclasses.replace(patch, **asked)


def objective(text: str) -> Any:
    """An objective's name as it is, or the function that MODULE:FUNCTION names.

    Raises:
        UserError: there is no such function.
    """
    from gcpatch.networks import factories

    return factories.find(text, "objective") if ":" in text else text
