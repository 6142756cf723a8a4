"""The command line, one file a verb. Heavy imports wait until a verb runs: `--help` is quick."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from gcpatch.cli import (
    attack,
    bench,
    convert,
    demo,
    explain,
    models,
    printing,
    verify,
)
from gcpatch.cli.patches import apply, universal
from gcpatch.cli.results import compare, report, transfer
from gcpatch.errors import UserError

VERBS = (
    demo,
    attack,
    universal,
    apply,
    explain,
    convert,
    verify,
    models,
    bench,
    transfer,
    report,
    compare,
)
FAILED, USAGE, INTERRUPTED = 1, 2, 130  # exit statuses


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb; returns the exit status: 0 done, 1 something failed, 2 wrong usage."""
    printing.prepare()
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        _cache_programs()
        return options.run(options)
    except UserError as error:
        printing.warn(str(error), options.verb)
        return USAGE
    except KeyboardInterrupt:
        printing.warn("")  # the terminal has written ^C
        printing.warn(f"stopped; {options.again}", options.verb)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return FAILED
    except OSError as error:
        printing.warn(f"{error}; {options.again}", options.verb)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gcpatch",
        description="Adversarial patches that fool an image classifier and its Grad-CAM.",
        epilog="gcpatch VERB --help shows a verb's options and an example.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        verb.add(verbs)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: Any, *_: Any) -> None:
        print(f"gcpatch {metadata.version('gcpatch')}")
        parser.exit()


def _cache_programs() -> None:
    """Has JAX keep compiled programs beside the converted weights, unless the user says where."""
    from gcpatch.files import programs

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (folder := programs()):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
