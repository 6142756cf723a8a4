"""Where torch's weights come from: torchvision's downloads, or a file that the user brings."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from convert import ConvertError
from convert.operators import torchvision
from convert.reading import files, heads, state_dicts
from convert.reading.files import first_line as first_line
from convert.reading.leaves import counters, shapes_of
from gcpatch.data import scenes
from gcpatch.networks import NAMES, SMALL, Preprocessing, create

PRE = "torchvision "  # what a source begins with that names torchvision's weights


class Weights(NamedTuple):
    """A state_dict by torchvision's names, and what is known of it.

    Attributes:
        state_dict: the tensors.
        categories: the classes' names, if there is a last layer.
        source: where they come from.
        name: the network's, in the zoo.
        preprocessing: what the network takes images as, where that is known.
        notes: sentences on what was taken, and what that assumes.
    """

    state_dict: dict[str, Any]
    categories: tuple[str, ...] | None
    source: str
    name: str
    preprocessing: Preprocessing | None = None
    notes: tuple[str, ...] = ()


def load_weights(
    name: str | None, weights: str | Path = "IMAGENET1K_V1", key: str | None = None
) -> Weights:
    """torchvision's weights by their enum name (V1 are the paper's), or a state_dict from a file.

    torchvision downloads, verifies and caches the former. A file is read without running any code
    in it, and searched for the tensors whose names fit the network (`state_dicts.find`).

    Args:
        name: the network's; None for the one that a file's names and shapes fit.
        weights: torchvision's name of them, or a file.
        key: which of several state_dicts in a file.

    Raises:
        ConvertError: no such weights, no network to fetch them with, or a file that is missing,
            damaged, or holds no weights that fit.
        UserError: there is no network of this name.
    """
    choices = _choices(name) if name else {}
    full_names = {f"{type(member).__name__}.{key}": member for key, member in choices.items()}
    if name and (member := {**choices, **full_names}.get(str(weights))):
        categories = tuple(member.meta["categories"])
        state_dict = download(name, member)
        return Weights(state_dict, categories, PRE + member.name, name, preprocessing_of(member))
    path = Path(weights).expanduser()
    known = path.suffix in (".pth", ".pt", ".safetensors") or path.exists()
    if name and not known and path.name == str(weights):
        raise ConvertError(
            f"{name} has no weights {str(weights)!r}; choose {', '.join([*choices, 'a FILE.pth'])}"
        )
    return _from_file(name, path, key)


def _choices(name: str) -> dict[str, Any]:
    """torchvision's weights of a network by name; without those that have no classes."""
    if name not in NAMES:
        create(name)  # raises, listing the names that there are
    if name in SMALL:
        return {}
    members = torchvision.models.get_model_weights(name).__members__
    return {key: member for key, member in members.items() if member.meta["categories"]}


def preprocessing_of(member: Any) -> Preprocessing:
    """What torchvision says of the images that its weights take."""
    said = member.transforms()
    return Preprocessing(
        tuple(said.mean),
        tuple(said.std),
        said.crop_size[0],
        said.resize_size[0],
        said.interpolation.value,
    )


def download(name: str, member: Any) -> dict[str, Any]:
    """torchvision's state_dict of some weights, which it fetches and caches."""
    try:
        return member.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except Exception as error:  # of a network, of a proxy, of a disk, of torch's readers
        raise ConvertError(
            f"torchvision could not fetch {member.name} of {name} ({first_line(error)}): fetch "
            f"{member.url} by hand, then run "
            f"`gcpatch convert {name} --weights {Path(member.url).name}`"
        ) from error


def _from_file(name: str | None, path: Path, key: str | None) -> Weights:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConvertError(f"{path} cannot be read: {error.strerror}") from error
    official = {Path(member.url).name: member for member in _choices(name).values()} if name else {}
    if path.name in official and not digest.startswith(path.stem.rpartition("-")[2]):
        raise ConvertError(
            f"{path} is incomplete or altered: its sha256 begins with {digest[:8]} and not as "
            "the file's name, where torchvision states it; fetch it again"
        )
    content = files.read(path)
    try:
        name = name or _guess(content, key)
        found = state_dicts.find(content, shapes(name), key)
        head = heads.settle(found.tensors, name)
        count = heads.classes_of(head.state_dict, name)
    except ConvertError as error:
        raise ConvertError(f"{path}: {error}") from None
    said = taken(found.label, found.prefix, found.left_out)
    notes = tuple(note for note in (said, head.note) if note)
    known = preprocessing_of(official[path.name]) if path.name in official else None
    categories = None if count is None else default_categories(name, count)
    source = f"{path.name} sha256 {digest}"
    return Weights(head.state_dict, categories, source, name, known, notes)


@cache
def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors that torchvision's network of this name has, by torch's keys."""
    return shapes_of(create(name))


def _guess(content: Any, key: str | None) -> str:
    """The network whose names and shapes a file's tensors have, but for the head.

    Raises:
        ConvertError: there is none, or the file holds no weights.
    """
    misfits: dict[str, int] = {}
    for name in NAMES:
        body = {one: shape for one, shape in shapes(name).items() if not _is_head(one)}
        several = state_dicts.candidates(content, body, key)
        misfits[name] = min(_misfits(one.tensors, body) for one in several)
        if not misfits[name]:
            return name
    nearest = min(misfits, key=misfits.__getitem__)
    raise ConvertError(
        f"its tensors are those of no network that is known by name (nearest is {nearest}, with "
        f"{misfits[nearest]} that differ): name one, or {heads.WHOLE}"
    )


def _misfits(tensors: Mapping[str, Any], body: Mapping[str, tuple[int, ...]]) -> int:
    """How many names are missing, unknown or of another shape, but for the head."""
    found = {key: tuple(value.shape) for key, value in tensors.items() if not _is_head(key)}
    unknown = found.keys() - body.keys() - set(counters(body))
    return len(unknown) + sum(found.get(key) != shape for key, shape in body.items())


def _is_head(key: str) -> bool:
    return key.startswith(("fc.", "classifier."))


def taken(label: str, prefix: str, left_out: Iterable[str]) -> str | None:
    """What was taken of a file, unless it was all of it."""
    where = f"took {label}" if label else "took all tensors"
    off = f" without {prefix!r} before the names" if prefix else ""
    beside = list(left_out)
    rest = f"; left out {state_dicts.listed(beside)}" if beside else ""
    return where + off + rest if off or rest or label else None


def default_categories(name: str, count: int) -> tuple[str, ...]:
    """Names for so many classes: the scenes' or ImageNet's where the number is theirs."""
    known = scenes.CATEGORIES
    if name not in SMALL:
        known = tuple(_choices(name)["IMAGENET1K_V1"].meta["categories"])
    return known if count == len(known) else tuple(f"class {i}" for i in range(count))
