"""Classes by name, number or WordNet ID, and the choice of a target."""

import difflib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from gcpatch.errors import UserError

RULES = ("random", "least-likely", "runner-up")
UNTARGETED = "untargeted"  # any class but the label, in place of a rule or a class
NUMBER = re.compile(r"0*([0-9]{1,9})(\.0*)?")  # pandas writes 3.0
WORDNET = re.compile(r"n[0-9]{8}")
SHOWN = 80  # letters of what is no class
ENDS = {0: "tench", 281: "tabby", 999: "toilet tissue"}  # of ImageNet's 1000 classes


class LabelError(UserError):
    """A class that is not there, or that cannot be the target."""


class AlreadyTarget(LabelError):  # noqa: N818
    """An image that is taken for its target, or, untargeted, not for its label, as it is."""


class _Index(NamedTuple):
    """The IDs that have a name as it is spelled, and as `_plain` reads it."""

    exact: dict[str, list[int]]
    plain: dict[str, list[int]]
    wordnet: dict[str, int]


def find(text: str, categories: Sequence[str]) -> int:
    """The ID of a class given by its name, number or WordNet ID.

    A name as it is spelled goes before all else, then a number (`3` or `3.0`), then a WordNet ID
    where the classes are ImageNet's 1000, then a name in any case and with `_` or `-` for a space.

    Raises:
        LabelError: no class is called so, or several are; the message names the nearest, or all.
    """
    text = text.strip()
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    exact, plain, wordnet = _index(tuple(categories))
    if text in exact:
        return _only(text, exact[text])
    if number := NUMBER.fullmatch(text):
        if int(number[1]) < len(categories):
            return int(number[1])
        raise LabelError(f"there is no class {shown}; the IDs are 0 to {len(categories) - 1}")
    if text in wordnet:
        return wordnet[text]
    if _plain(text) in plain:
        return _only(text, plain[_plain(text)])
    problem = f"there is no class {shown!r}"
    if WORDNET.fullmatch(text):
        known = "it is none of ImageNet's 1000" if wordnet else "these are not ImageNet's 1000"
        raise LabelError(f"{problem}: {known}; give a name or number")
    if near := difflib.get_close_matches(_plain(text), plain, 3):
        names = (categories[plain[name][0]] for name in near)
        raise LabelError(f"{problem}; near it are {', '.join(names)}")
    raise LabelError(f"{problem}; the IDs are 0 to {len(categories) - 1}")


def _only(text: str, found: list[int]) -> int:
    if len(found) > 1:
        several = " and ".join(f"class {one}" for one in found)
        raise LabelError(f"{text} is {several}; give the number")
    return found[0]


@lru_cache(8)
def _index(categories: tuple[str, ...]) -> _Index:
    index = _Index({}, {}, {})
    for number, name in enumerate(categories):
        index.exact.setdefault(name, []).append(number)
        index.plain.setdefault(_plain(name), []).append(number)
    if len(categories) == 1000 and all(_plain(categories[n]) == ENDS[n] for n in ENDS):
        ids = files("gcpatch.data").joinpath("wordnet.txt").read_text().split()
        index.wordnet.update(zip(ids, range(1000), strict=True))
    return index


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.casefold())).strip()


def as_ids(
    targets: Iterable[Any], categories: Sequence[str], what: str = "target"
) -> Int[np.ndarray, " n"]:
    """The IDs of classes: a number is an ID, a text whatever `find` takes.

    Raises:
        LabelError: one is no class; the message says which, and calls it `what`.
    """
    plain = np.asarray(targets) if hasattr(targets, "dtype") else targets  # JAX's too
    named = ((f"{what} {place}", one) for place, one in enumerate(plain))
    return np.asarray([_id(name, one, categories) for name, one in named], np.int64)


def _id(name: str, target: Any, categories: Sequence[str]) -> int:
    if isinstance(target, str):
        try:
            return find(target, categories)
        except LabelError as error:
            raise LabelError(f"{name}: {error}") from None
    whole = isinstance(target, int | np.integer) and not isinstance(target, bool)
    if not whole or not 0 <= target < len(categories):
        known = f"the IDs are 0 to {len(categories) - 1}, or give a name"
        raise LabelError(f"{name} is {target!r}; {known}")
    return int(target)


def check(rule: str, categories: Sequence[str]) -> None:
    """Raises LabelError where a target is none of rules and classes, or there is no choice."""
    if len(categories) < 2:
        raise LabelError(f"a network of {len(categories)} class cannot be fooled; it needs 2")
    if rule in (*RULES, UNTARGETED):
        if len(categories) < 3 and rule in ("least-likely", "runner-up"):
            raise LabelError(
                "of 2 classes the runner-up is the least likely one, and the only target; "
                "choose random"
            )
        return
    try:
        find(rule, categories)
    except LabelError as error:
        raise LabelError(f"{error}; or choose one of {', '.join((*RULES, UNTARGETED))}") from None


def check_own(target: str | None, rule: str) -> None:
    """Raises LabelError where an image's own target and its run's are not of one kind."""
    if target and (target == UNTARGETED) != (rule == UNTARGETED):
        raise LabelError(
            f"its own target is {target!r} and that of the run {rule!r}; attacks of a run are all "
            "targeted or all untargeted"
        )


def check_right(
    label: int, logits: Float[np.ndarray, " classes"], categories: Sequence[str]
) -> None:
    """Raises AlreadyTarget where the top class is not the label: none is left to lead away from."""
    if (top := int(logits.argmax())) != label:
        raise AlreadyTarget(
            f"the image is taken for {categories[top]!r} already, and not for {categories[label]!r}"
        )


def choose(
    rule: str, logits: Float[np.ndarray, " classes"], categories: Sequence[str], seed: Sequence[int]
) -> int:
    """The target for an image: one of `RULES`, or a class by name or number.

    Args:
        rule: what to choose.
        logits: the network's answer to the clean image.
        categories: the classes' names.
        seed: of the `random` choice, which is uniform over the classes but the image's own.

    Raises:
        LabelError: there is no such class, or too few to choose from.
        AlreadyTarget: the image is taken for the class that the rule names.
    """
    check(rule, categories)
    order = np.argsort(-logits, kind="stable")
    if rule == "runner-up":
        return int(order[1])
    if rule == "least-likely":
        return int(order[-1])
    if rule == "random":
        return int(np.sort(order[1:])[np.random.default_rng(seed).integers(len(order) - 1)])
    target = find(rule, categories)
    if target == order[0]:
        raise AlreadyTarget(f"the image is taken for the target {categories[target]!r} already")
    return target
