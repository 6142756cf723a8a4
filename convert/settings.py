"""What a user says of a network beside its weights: its images, classes, layer and name."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from convert import ConvertError
from gcpatch.errors import UserError
from gcpatch.explainers.cam import map_shape
from gcpatch.networks import NAMES, Network, Preprocessing

# Words that `--model` or `verify` take, and a folder.
RESERVED = ("all", "help", "random", "programs")
OPTIONS = ("mean", "std", "size", "resize", "interpolation")


@dataclass(frozen=True)
class Settings:
    """All that may be said; what is None stays as it is known or assumed.

    Attributes:
        mean, std, size, resize, interpolation: as of `Preprocessing`.
        categories: the classes' names.
        layer: that Grad-CAM explains.
        name: an alias.
    """

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    size: int | None = None
    resize: int | None = None
    interpolation: str | None = None
    categories: tuple[str, ...] | None = None
    layer: str | None = None
    name: str | None = None

    def preprocessing(self, known: Preprocessing) -> Preprocessing:
        """`known`, changed as the user says; with a new size alone, resized in proportion.

        Raises:
            UserError: a value is out of range.
        """
        given: dict[str, Any] = {
            name: value for name in OPTIONS if (value := getattr(self, name)) is not None
        }
        if self.size is not None and self.resize is None:
            given["resize"] = round(self.size * known.resize / known.size)
        return replace(known, **given)

    def assumed(self, taken: Preprocessing) -> tuple[str, ...]:
        """A sentence on what the user has not said of images, unless all is said."""
        spelled = {
            "mean": ",".join(map(str, taken.mean)),
            "std": ",".join(map(str, taken.std)),
            "size": f"{taken.size}",
            "resize": f"{taken.resize}",
            "interpolation": taken.interpolation,
        }
        silent = [name for name in OPTIONS if getattr(self, name) is None]
        if not silent:
            return ()
        values = ", ".join(f"{name} {spelled[name]}" for name in silent)
        options = ", ".join(f"--{name}" for name in silent)
        return (f"assumes {values}; {options} say otherwise",)

    def apply(self, network: Network) -> None:
        """Gives a network all of this.

        Raises:
            UserError: a value is out of range, there is no such layer or no map at it, there is
                not a name for each class, the alias is another network's name, or the images are
                too small.
        """
        network.preprocessing = self.preprocessing(network.preprocessing)
        count = len(network.categories)
        if self.categories is not None and len(self.categories) != count:
            raise ConvertError(
                f"{network.architecture} has {count} classes, and there are "
                f"{len(self.categories)} names for them"
            )
        network.categories = self.categories or network.categories
        if self.layer is not None:
            network.target_layer = network.resolve(self.layer)
        if self.name in NAMES and self.name != network.architecture:
            raise UserError(
                f"the name {self.name} is another network's than {network.architecture}; choose "
                "another"
            )
        network.name = self.name or network.name
        side = network.preprocessing.size
        try:
            jax.eval_shape(network, jax.ShapeDtypeStruct((side, side, 3), "float32"))
        except (TypeError, ValueError, ZeroDivisionError):
            raise ConvertError(f"{network.name} takes no images of {side} pixels") from None
        map_shape(network, (side, side, 3))  # raises where there is none


def check_alias(name: str | None) -> None:
    """Raises UserError where an alias is no plain file name, or a word of another meaning."""
    if name is None:
        return
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name) or name in RESERVED:
        raise UserError(
            f"the name {name!r} is not allowed; it must be letters, digits, dots, dashes and "
            f"underscores, at most 100, and none of {', '.join(RESERVED)}"
        )


def read_categories(path: Path) -> tuple[str, ...]:
    """The classes' names in a file, in the order of their numbers.

    It holds one name a line, or JSON: a list of names, `{number: name}`, `{number: [id, name]}` as
    of ImageNet, or `{name: number}` as torchvision's `class_to_idx`.

    Raises:
        ConvertError: it cannot be read, or is nothing of these.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise ConvertError(f"the classes {path} cannot be read: {reason}") from None
    names = _from_json(text) if text.lstrip()[:1] in ("[", "{") else text.splitlines()
    names = [name.strip() for name in names or [""]]
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        raise ConvertError(
            f"{path} does not name classes: it must hold one name a line, a JSON list, or a JSON "
            "object of every number from 0 on and its name"
        )
    return tuple(names)


def _from_json(text: str) -> list[str] | None:
    """The names, or None where the text is no JSON of names."""
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            if all(isinstance(value, int) for value in content.values()):
                content = {number: name for name, number in content.items()}
            numbered = {int(number): value for number, value in content.items()}
            content = [numbered[number] for number in range(len(numbered))]
        names = [value[-1] if isinstance(value, list) else value for value in content]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return names if all(isinstance(name, str) for name in names) else None
