"""Classes by name or number, and the choice of a target."""

import difflib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from gcpatch.errors import UserError

RULES = ("random", "least-likely", "runner-up")


class LabelError(UserError):
    """A class that is not there, or that cannot be the target."""


def find(text: str, categories: Sequence[str]) -> int:
    """The ID of a class given by name (any case, `_` for space) or by number.

    Raises:
        LabelError: no class has this name or number; the message names the nearest.
    """
    if text.isdecimal():
        if int(text) < len(categories):
            return int(text)
        raise LabelError(f"there is no class {text}; the IDs are 0 to {len(categories) - 1}")
    names = [_plain(name) for name in categories]
    if _plain(text) in names:
        return names.index(_plain(text))
    near = difflib.get_close_matches(_plain(text), names, 3) or names[:3]
    raise LabelError(f"there is no class {text!r}; near it are {', '.join(near)}")


def check(rule: str, categories: Sequence[str]) -> None:
    """Raises LabelError where a target is neither a rule nor a class."""
    if rule in RULES:
        return
    try:
        find(rule, categories)
    except LabelError as error:
        raise LabelError(f"{error}; or choose one of {', '.join(RULES)}") from None


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
        LabelError: there is no such class, or the image is already taken for it.
    """
    order = np.argsort(-logits, kind="stable")
    if rule == "runner-up":
        return int(order[1])
    if rule == "least-likely":
        return int(order[-1])
    if rule == "random":
        return int(np.sort(order[1:])[np.random.default_rng(seed).integers(len(order) - 1)])
    target = find(rule, categories)
    if target == order[0]:
        raise LabelError(f"the image is taken for the target {categories[target]!r} already")
    return target


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").strip()
