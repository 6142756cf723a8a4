"""Settings: fields of dataclasses that know what they mean, for help, messages and tables.

A dataclass declares each of its settings once, by `setting`. The command line makes its options of
them, `check` its messages, `documented` the docstring, and `table` what a README shows. Nothing
here, nor where settings are declared, imports JAX, so that `--help` is quick.
"""

import math
import numbers
import pkgutil
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, Field, field, fields
from typing import Any, NamedTuple, TypeVar

from gcpatch.errors import UserError

Kind = TypeVar("Kind", bound=type)

# Where the names that a setting takes are listed; they are imported when somebody asks for them.
REGISTRIES = {
    "colormap": "gcpatch.report.figures:COLORMAPS",
    "explainer": "gcpatch.explainers.cam:METHODS",
    "init": "gcpatch.attacks.fields:STARTS",
    "method": "gcpatch.explainers.registry:METHODS",
    "objective": "gcpatch.attacks.objectives:OBJECTIVES",
    "optimizer": "gcpatch.attacks.settings:OPTIMIZERS",
    "position": "gcpatch.attacks.regions:CORNERS",
    "precision": "gcpatch.runs.options:PRECISIONS",
    "preset": "gcpatch.attacks.presets:PRESETS",
    "resize mode": "gcpatch.data.images:RESIZE_MODES",
}


def names_of(what: str) -> tuple[str, ...]:
    """The names in a registry, a key of `REGISTRIES`."""
    return tuple(pkgutil.resolve_name(REGISTRIES[what]))


def choose(what: str, value: str, *, error: type[UserError] = UserError, hint: str = "") -> str:
    """Returns `value`, a name in the registry.

    Raises:
        UserError: (or `error`) the registry has no such name; the message lists those that it has,
            and ends with `hint`.
    """
    if value not in (names := names_of(what)):
        raise error(f"there is no {what} {value!r}; choose one of {', '.join(names)}{hint}")
    return value


class Range(NamedTuple):
    """The numbers that a setting may be, in words and as a test."""

    says: str
    holds: Callable[[Any], bool]


def at_least(low: int | float) -> Range:
    """`low` and more, but no more than JAX's whole numbers."""
    return Range(f"at least {low} and below 2^31", lambda value: low <= value < 2**31)


def over(low: int | float) -> Range:
    """More than `low`, and finite."""
    return Range(f"over {low} and finite", lambda value: low < value < math.inf)


SHARE = Range("over 0 and at most 1", lambda value: 0 < value <= 1)
PROBABILITY = Range("at least 0 and below 1", lambda value: 0 <= value < 1)


class Setting(NamedTuple):
    """What a field says of itself.

    Attributes:
        text: what it means.
        value: how the command line writes what it takes, such as PIXELS; None where it has no
            option.
        parse: makes a value of an option's text.
        registry: the key of `REGISTRIES` that lists the names that it takes.
        range: the numbers that it may be.
        otherwise: the default in words, where the value says too little.
    """

    text: str
    value: str | None = None
    parse: Callable[[str], Any] = str
    registry: str | None = None
    range: Range | None = None
    otherwise: str | None = None


def setting(default: Any, text: str, **about: Any) -> Any:
    """A dataclass's field that knows what it means: its default, and what `Setting` says."""
    return field(default=default, metadata={"setting": Setting(text, **about)})


def settings_of(kind: type) -> Iterator[tuple[Field, Setting]]:
    """A dataclass's settings in turn."""
    for each in fields(kind):
        yield each, each.metadata["setting"]


def default_of(each: Field, about: Setting) -> str | None:
    """A setting's default, in words; None where it has none."""
    if about.otherwise or each.default in (None, MISSING):
        return about.otherwise
    return str(each.default)


def check(values: Any, error: type[UserError]) -> None:
    """Raises `error` where one of a dataclass's settings is not what it may be.

    Numbers become Python's own (NumPy's are none that JSON knows).
    """
    for each, about in settings_of(type(values)):
        value = getattr(values, each.name)
        if about.registry and isinstance(value, str):
            choose(about.registry, value, error=error)
        if about.range is None or value is None:
            continue
        if not is_number(value, whole=about.parse is int):
            what = "a whole number" if about.parse is int else "a number"
            raise error(f"{each.name} is {value!r}; it must be {what}")
        if not about.range.holds(value):
            raise error(f"{each.name} is {value}; it must be {about.range.says}")
        own = int(value) if isinstance(value, numbers.Integral) else float(value)
        object.__setattr__(values, each.name, own)


def is_number(value: Any, *, whole: bool = False) -> bool:
    """Whether a value is a number, or a whole one; True and False are none."""
    kind = numbers.Integral if whole else numbers.Real
    return isinstance(value, kind) and not isinstance(value, bool)


def documented(kind: Kind) -> Kind:
    """A class decorator: the settings, as `Attributes` at the end of the docstring."""
    lines = []
    for each, about in settings_of(kind):
        default = default_of(each, about)
        text = about.text if default is None else f"{about.text} (default {default})"
        lines += textwrap.wrap(
            f"{each.name}: {text}.", 96, initial_indent=" " * 8, subsequent_indent=" " * 12
        )
    kind.__doc__ = f"{(kind.__doc__ or '').rstrip()}\n\n    Attributes:\n" + "\n".join(lines) + "\n"
    return kind


def table(kinds: Iterable[type]) -> str:
    """The settings of dataclasses as a Markdown table; what has no option is for Python alone."""
    lines = ["| setting | option | default | meaning |", "|---|---|---|---|"]
    for kind in kinds:
        for each, about in settings_of(kind):
            option = f"`--{each.name.replace('_', '-')} {about.value}`" if about.value else ""
            option = option.replace("|", "\\|")
            default = default_of(each, about) or ""
            lines.append(f"| `{each.name}` | {option} | {default} | {about.text} |")
    return "\n".join(lines)
