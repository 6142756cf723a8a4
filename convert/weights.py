"""Where torch's weights come from: torchvision's downloads, or a file that the user brings."""

import hashlib
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from convert import ConvertError
from convert.operators import torch, torchvision
from gcpatch.data import scenes
from gcpatch.networks import MINIS, NAMES, create

HEADS = ("fc.bias", "classifier.6.bias")  # as long as there are classes


class Weights(NamedTuple):
    """A state_dict, the classes' names, and a sentence on where they come from."""

    state_dict: dict[str, Any]
    categories: tuple[str, ...] | None
    source: str


def load_weights(name: str, weights: str | Path = "IMAGENET1K_V1") -> Weights:
    """torchvision's weights by their enum name (V1 are the paper's), or a state_dict from a file.

    torchvision downloads, verifies and caches the former. A file may be nested under `state_dict`
    and its keys may begin with `module.`; it is read without running any code in it.

    Raises:
        ConvertError: no such weights, no network to fetch them with, or a file that is missing,
            damaged, not torch's, or holds other objects than tensors.
        UserError: there is no network of this name.
    """
    choices = _choices(name)
    full_names = {f"{type(member).__name__}.{key}": member for key, member in choices.items()}
    if member := {**choices, **full_names}.get(str(weights)):
        categories = tuple(member.meta["categories"])
        return Weights(_download(name, member), categories, f"torchvision {member.name}")
    path = Path(weights).expanduser()
    if path.suffix not in (".pth", ".pt") and not path.exists() and path.name == str(weights):
        raise ConvertError(
            f"{name} has no weights {str(weights)!r}; choose {', '.join([*choices, 'a FILE.pth'])}"
        )
    return _from_file(name, path)


def _choices(name: str) -> dict[str, Any]:
    """torchvision's weights of a network by name; without those that have no classes."""
    if name not in NAMES:
        create(name)  # raises, listing the names that there are
    if name in MINIS:
        return {}
    members = torchvision.models.get_model_weights(name).__members__
    return {key: member for key, member in members.items() if member.meta["categories"]}


def _download(name: str, member: Any) -> dict[str, Any]:
    try:
        return member.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except Exception as error:  # of a network, of a proxy, of a disk, of torch's readers
        raise ConvertError(
            f"torchvision could not fetch {member.name} of {name} ({first_line(error)}): fetch "
            f"{member.url} by hand, then run "
            f"`gcpatch convert {name} --weights {Path(member.url).name}`"
        ) from error


def _from_file(name: str, path: Path) -> Weights:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConvertError(f"{path} cannot be read: {error.strerror}") from error
    official = {Path(member.url).name for member in _choices(name).values()}
    if path.name in official and not digest.startswith(path.stem.rpartition("-")[2]):
        raise ConvertError(
            f"{path} is incomplete or altered: its sha256 begins with {digest[:8]} and not as "
            "the file's name, where torchvision states it; fetch it again"
        )
    state_dict = _unpickle(path)
    head = next((state_dict[key] for key in HEADS if key in state_dict), None)
    return Weights(state_dict, _categories(name, head), f"{path.name} sha256 {digest}")


def _unpickle(path: Path) -> dict[str, Any]:
    """The state_dict in a file that torch.save wrote, without the wrappings that people use."""
    try:
        _check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its readers happen to run into
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise ConvertError(
                f"{path} holds a pickled {refused[1]}, which could run code and is not read: "
                "save the weights alone, torch.save(model.state_dict(), FILE)"
            ) from error
        reason = f"it is damaged or not a file of torch.save ({first_line(error)})"
        raise ConvertError(f"{path} cannot be read: {reason}") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not (isinstance(content, dict) and all(isinstance(key, str) for key in content)):
        raise ConvertError(f"{path} holds a {type(content).__name__} instead of a state_dict")
    prefix = "module." if all(key.startswith("module.") for key in content) else ""
    return {key.removeprefix(prefix): value for key, value in content.items()}


def _check_archive(path: Path) -> None:
    """Compares the checksums in a zip archive, which torch.load does not."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if part := archive.testzip():
                raise ValueError(f"the checksum of {part} in it is wrong")


def _categories(name: str, head: Any) -> tuple[str, ...] | None:
    """Names for as many classes as the last layer's bias `[classes]` has."""
    if not isinstance(head, torch.Tensor) or head.ndim != 1:
        return None  # from_torch says what is wrong
    known = scenes.CATEGORIES
    if name not in MINIS:
        known = tuple(_choices(name)["IMAGENET1K_V1"].meta["categories"])
    return known if len(head) == len(known) else tuple(f"class {i}" for i in range(len(head)))


def first_line(error: Exception) -> str:
    """What an error says, without the advice below it."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
