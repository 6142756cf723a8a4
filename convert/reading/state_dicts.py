"""Finds a network's weights in what a file holds, by comparing its keys with those wanted.

People save a state_dict beside an optimiser's or under names of their own, and the names in it
begin with those of the modules around the network. Both are found by where most keys fit. Only
modules that compute what the module in them computes (`WRAPPERS`) may stand between two names.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from convert import ConvertError
from convert.operators import torch
from convert.reading.files import SAVE, LeftOut

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
DEPTH = 5  # of what is searched
LISTED = 10


class StateDict(NamedTuple):
    """Tensors under a network's own names.

    Attributes:
        label: where they were: the keys that lead to them, or what their names began with.
        prefix: what was taken off their names.
        tensors: by name.
        matched: how many names are wanted.
        left_out: what was beside them.
        layers_left_out: those of it that are weights of layers, `[out, ...]`.
    """

    label: str
    prefix: str
    tensors: dict[str, Any]
    matched: int
    left_out: tuple[str, ...]
    layers_left_out: tuple[str, ...]


def find(content: Any, wanted: Mapping[str, Any], key: str | None = None) -> StateDict:
    """The tensors in a file's content whose names fit best.

    Args:
        content: as `files.read` returns it.
        wanted: the names that a network has, each with something.
        key: which of several, by its label.

    Raises:
        ConvertError: several fit equally well, none does, or none has this label; or, without a
            label, there are layers beside the network, which may be part of it.
    """
    found = candidates(content, wanted, key)
    if key is not None:
        return found[0]
    best = [one for one in found if one.matched == found[0].matched]
    if len(best) > 1:
        labels = " and ".join(one.label or "''" for one in best[:LISTED])
        raise ConvertError(f"holds several that fit: {labels}; choose one with --key")
    if layers := best[0].layers_left_out:
        raise ConvertError(
            f"holds layers beside the network ({listed([*layers])}): if they take part, give the "
            f"whole network, `gcpatch convert module:factory`; else --key {best[0].label}"
        )
    return best[0]


def candidates(content: Any, wanted: Mapping[str, Any], key: str | None = None) -> list[StateDict]:
    """All that may be meant, those with most matches first; see `find`."""
    found = sorted(_search(content, wanted), key=lambda one: -one.matched)
    if not found:
        raise ConvertError(_without(content))
    chosen = [one for one in found if key in (None, one.label)]
    if not chosen:
        labels = ", ".join(one.label or "''" for one in found)
        raise ConvertError(f"holds no weights under {key!r}; there are {labels}")
    return chosen


def listed(names: list[str], most: int = LISTED) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _without(content: Any) -> str:
    """What is there where there is no state_dict."""
    for part in (content, *(content.values() if isinstance(content, Mapping) else ())):
        if isinstance(part, LeftOut):
            return f"holds a pickled {part.kind}, which could run code and is not read: {SAVE}"
    named = isinstance(content, Mapping) and all(isinstance(key, str) for key in content)
    return (
        "holds no tensors" if named else f"holds a {type(content).__name__} instead of a state_dict"
    )


def _search(content: Any, wanted: Mapping[str, Any]) -> Iterator[StateDict]:
    for path, mapping in _mappings(content):
        beside = tuple(_beside(content, path))
        prefixes = _prefixes(mapping, wanted) or Counter({"": 0})
        for prefix, matched in prefixes.items():
            parts = [*path, prefix.rstrip(".")] if len(prefixes) > 1 or not path else path
            tensors = {
                _unwrapped(name.removeprefix(prefix)): value
                for name, value in mapping.items()
                if _is_under(name, prefix) and isinstance(value, torch.Tensor)
            }
            others = {
                name: value
                for name, value in mapping.items()
                if not (_is_under(name, prefix) and isinstance(value, torch.Tensor))
            }
            layers = (n for n, v in others.items() if isinstance(v, torch.Tensor) and v.ndim > 1)
            label = ".".join(part for part in parts if part)
            yield StateDict(label, prefix, tensors, matched, (*others, *beside), tuple(layers))


def _mappings(
    content: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every dictionary in the content that holds tensors by name, and the keys that lead there."""
    if isinstance(content, Mapping):
        named = {key: value for key, value in content.items() if isinstance(key, str)}
        if any(isinstance(value, torch.Tensor) for value in named.values()):
            yield path, named
        parts = list(named.items())
    elif isinstance(content, (list, tuple)):
        parts = [(str(i), value) for i, value in enumerate(content)]
    else:
        return
    if len(path) < DEPTH:
        for name, value in parts:
            yield from _mappings(value, (*path, name))


def _beside(content: Any, path: tuple[str, ...]) -> Iterator[str]:
    """The keys beside those of a path, as far as they are names."""
    for step in path:
        if isinstance(content, Mapping):
            yield from (key for key in content if isinstance(key, str) and key != step)
            content = content[step]
        else:
            content = content[int(step)]


def _prefixes(mapping: Mapping[str, Any], wanted: Mapping[str, Any]) -> Counter[str]:
    """What names begin with before a wanted one, each with the number of names; the most only.

    A block's name ends like that of a whole network, `layer1.0.bn1.weight`: of prefixes of which
    one begins with the other, the one with more names stays.
    """
    counts: Counter[str] = Counter()
    for name in mapping:
        parts = name.split(".")
        for i in range(len(parts)):
            if parts[i] not in WRAPPERS and _unwrapped(".".join(parts[i:])) in wanted:
                counts["".join(f"{part}." for part in parts[:i])] += 1
    return Counter(
        {
            prefix: count
            for prefix, count in counts.items()
            if not any(
                other != prefix
                and (prefix.startswith(other) or other.startswith(prefix))
                and more > count
                for other, more in counts.items()
            )
        }
    )


def _is_under(name: str, prefix: str) -> bool:
    rest = name.removeprefix(prefix)
    return name.startswith(prefix) and rest.split(".")[0] not in WRAPPERS


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)
