"""`--init` where it names a library of patches, and the library that it gives a run."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gcpatch.errors import UserError

AUTO = "auto"


def take_library(options: argparse.Namespace) -> str | None:
    """Takes a library's file, or `auto`, out of `--init`; None where that names a start.

    What has no patch in it starts as by default.
    """
    given = options.init
    if given != AUTO and not (given or "").endswith(".npz"):
        return None
    options.init = "mean"
    return given


def load_library(
    file: str,
    network: Any,
    items: Sequence[Any],
    rule: str,
    region: Any,
    attack: Any,
) -> tuple[Any, list[str]]:
    """The library of a file, and what a person should know of it before the images start from it.

    Raises:
        UserError: it cannot be read, is not for this network, region and classes, or lacks a target
            that an image has or that a rule may choose.
    """
    from gcpatch.attacks.patches import Library
    from gcpatch.data import labels

    library = Library.load(Path(file))
    targets: set[int] = set()
    for text in {item.target or rule for item in items}:
        if text in labels.RULES:
            targets |= set(range(len(network.categories)))
        else:
            try:
                targets.add(labels.find(text, network.categories))
            except UserError:  # of a manifest; the image's record says so
                continue
    side = network.preprocessing.size
    note = library.check_starts(network, region, (side, side), targets)
    notes = [note] if note else []
    if (made := library.origin.attack["objective"]) != attack.objective.name:
        notes.append(f"the patches were made for {made}; this run is for {attack.objective.name}")
    return library, notes


def own_library(
    folder: Path, network: Any, items: Sequence[Any], region: Any, attack: Any, how: Any, note: Any
) -> Any:
    """The library that a run makes of its own images, with a bar of its steps."""
    from tqdm import tqdm

    from gcpatch.runs import library

    with tqdm(desc="library", unit=" steps", delay=2, disable=None) as bar:
        return library.own_library(
            folder, network, items, region, attack, how, on_step=bar.update, note=note
        )
