"""What the verbs share: their parsers, the options that several have, and names in registries."""

import argparse
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gcpatch.cli import printing
from gcpatch.errors import UserError
from gcpatch.settings import default_of, names_of, settings_of


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


def add_fields(parser: argparse.ArgumentParser, kind: type) -> None:
    """Adds an option for each setting of a dataclass that has one; None where it is not given."""
    for field, about in settings_of(kind):
        if about.value is None:
            continue
        flag, default = f"--{field.name.replace('_', '-')}", default_of(field, about)
        text = about.text if default is None else f"{about.text} (default {default})"
        if about.registry:
            add_named(parser, flag, registry=about.registry, text=text, metavar=about.value)
        else:
            parser.add_argument(flag, type=about.parse, metavar=about.value, help=text)


def given(options: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The settings of a dataclass that the command line gives, by name."""
    asked = {}
    for field, about in settings_of(kind):
        if about.value is not None and (value := getattr(options, field.name)) is not None:
            asked[field.name] = about.parse(value) if about.registry else value
    return asked


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


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Adds `--weights`, which means the same wherever it is."""
    parser.add_argument(
        "--weights",
        metavar="random|DIR|ENUM|FILE",
        help="seeded random weights, a checkpoint's folder, torchvision's name of weights or PyTorch's file (default: what `gcpatch convert` made)",
    )


def add_images_and_model(parser: argparse.ArgumentParser) -> None:
    """Adds the images, the network, and the folder to write to."""
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="image files, folders, globs, manifests (.csv, .jsonl) or archives (.tar)",
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME|ALIAS|DIR|MODULE:FACTORY",
        help="a network or an alias, as `gcpatch models` lists them, a checkpoint's folder, or a function that gives a gcpatch.Network",
    )
    add_weights(parser)
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the folder to write to"
    )
    add_named(
        parser,
        "--resize-mode",
        registry="resize mode",
        text="how an image gets the size that the network takes: as the paper (default stretch), or as torchvision",
        metavar="MODE",
        default="stretch",
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
