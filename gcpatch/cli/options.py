"""What the verbs share: their parsers, the options that several have, and names in registries."""

import argparse
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gcpatch.errors import UserError
from gcpatch.settings import default_of, names_of, settings_of

DURATION = re.compile(r"(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?")
MOST_SECONDS = 10 * 365 * 86400


def check_range(flag: str, value: int | None, least: int, most: int | None = None) -> None:
    """Raises UserError where a number that is given is out of its range."""
    if value is None:
        return
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


def add_fields(parser: argparse.ArgumentParser, kind: type, **defaults: Any) -> None:
    """Adds an option for each setting of a dataclass that has one; None where it is not given.

    `defaults` stand in the help in place of the class's own.
    """
    for field, about in settings_of(kind):
        if about.value is None:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        default = defaults.get(field.name, default_of(field, about))
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


def add_budget(parser: argparse.ArgumentParser) -> None:
    """Adds `--budget`."""
    parser.add_argument(
        "--budget",
        metavar="TIME",
        help="end in good order after so long, such as 90, 15m, 2h or 1h30m; --resume goes on",
    )


def end_of_budget(options: argparse.Namespace) -> float | None:
    """When a budget that begins now is spent, by `time.monotonic`; None without one.

    Raises:
        UserError: it is no duration.
    """
    text = options.budget
    if text is None:
        return None
    found = DURATION.fullmatch(f"{text}s" if text.isdigit() else text)
    hours, minutes, seconds = found.groups(0) if found else (0, 0, 0)
    span = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
    if not 0 < span < MOST_SECONDS:
        raise UserError(
            f"the budget is {text!r}; it must be seconds (90 or 90s), minutes (15m), hours (2h) "
            "or several of them (1h30m), over 0 and below 10 years"
        )
    return time.monotonic() + span


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds `--json`."""
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


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
