"""What the verbs share: their parsers, the options that several have, and names in registries."""

import argparse
import pkgutil
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gcpatch.errors import UserError

MOST_SEED = 2**32 - 1
IMAGE_SIZE = 224  # pixels, of every image that a verb reads

# Where the names that an option takes are listed. They are imported when somebody asks for them.
REGISTRIES = {
    "init": "gcpatch.attacks.settings:STARTS",
    "method": "gcpatch.explainers.registry:METHODS",
    "objective": "gcpatch.attacks.objectives:OBJECTIVES",
    "optimizer": "gcpatch.attacks.settings:OPTIMIZERS",
    "position": "gcpatch.attacks.regions:CORNERS",
    "precision": "gcpatch.runs.campaign:PRECISIONS",
    "preset": "gcpatch.attacks.presets:PRESETS",
    "resize mode": "gcpatch.data.images:RESIZE_MODES",
}


def names_of(what: str) -> tuple[str, ...]:
    """The names in a registry, a key of `REGISTRIES`."""
    return tuple(pkgutil.resolve_name(REGISTRIES[what]))


def choose(what: str, value: str) -> str:
    """Returns `value`, a name in the registry.

    Raises:
        UserError: the registry has no such name; the message lists those that it has.
    """
    if value not in (names := names_of(what)):
        raise UserError(f"there is no {what} {value!r}; choose one of {', '.join(names)}")
    return value


def check_range(flag: str, value: int, least: int, most: int | None = None) -> None:
    """Raises UserError where a number is out of its range."""
    if value < least or (most is not None and value > most):
        known = f"at least {least}" if most is None else f"{least} to {most}"
        raise UserError(f"--{flag} is {value}; it must be {known}")


class Named(argparse.Action):
    """An option that takes a name in the registry `const`; `help` prints the names instead."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Keeps the name, or prints the registry's and ends the command."""
        if values == "help":
            print(*names_of(self.const), sep="\n")
            parser.exit()
        setattr(namespace, self.dest, values)


def add_named(
    parser: argparse.ArgumentParser,
    flag: str,
    registry: str,
    text: str,
    metavar: str = "NAME",
    default: str | None = None,
) -> None:
    """Adds an option that takes a name in a registry; its help says how to list the names."""
    parser.add_argument(
        flag,
        action=Named,
        const=registry,
        default=default,
        metavar=metavar,
        help=f"{text}; `{flag} help` lists the names",
    )


def add_verb(
    verbs: Any, name: str, run: Any, summary: str, example: str
) -> argparse.ArgumentParser:
    """Adds a verb to what `ArgumentParser.add_subparsers` returned; returns the verb's parser."""
    parser = verbs.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, parser=parser, again="run the same command again")
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds `--json`."""
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def add_images_and_model(parser: argparse.ArgumentParser) -> None:
    """Adds the images, the network, and the folder to write to."""
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="image files, folders, globs, manifests (.csv, .jsonl) or archives (.tar)",
    )
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="a network; `gcpatch models` lists them"
    )
    parser.add_argument(
        "--weights",
        metavar="random|DIR",
        help="seeded random weights, or a checkpoint's folder (default: what `gcpatch convert` made)",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the folder to write to"
    )
    add_named(
        parser,
        "--resize-mode",
        registry="resize mode",
        text="how an image gets its size: as the paper (default stretch), or as torchvision",
        metavar="MODE",
        default="stretch",
    )


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Has a failure to write say which folder it was about.

    Raises:
        UserError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to the folder {folder}: {error.strerror}") from None


def command() -> str:
    """What a shell would have to run again."""
    return shlex.join(["gcpatch", *sys.argv[1:]])
