"""What an attack wants of the explanation: a loss, how far off it is, and when it is fooled.

`OBJECTIVES` names those that the command line knows. A name, the function behind that name and an
`Objective` mean the same to `Attack`; any other function is an objective that wants nothing but a
small loss, whatever its name is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from gcpatch import losses
from gcpatch.errors import UserError
from gcpatch.losses import Evidence, Loss, energy

# What counts as fooled, and the margin that the attack adds so that 8 bits do not undo it.
HIDDEN, HIGHLIGHTED, MARGIN = 0.05, 0.5, 0.02


class ObjectiveError(UserError):
    """There is no objective of this name; the message lists those that there are."""


@dataclass(frozen=True)
class Objective:
    """What an attack wants of the explanation.

    Attributes:
        loss: a scalar of `Evidence` to minimise; its gradient comes from JAX.
        shortfall: what the explanation of `Evidence` lacks, 0 where it is as wanted. Without one
            the attack is ranked by its total loss, and ends where [16] ends: at a loss of 0.
        fooled: whether a map fools, from its energy in the patch and from whether its maximum lies
            there; None where the objective wants nothing of the explanation.
        needs_target: whether it means nothing in an untargeted attack.
    """

    loss: Loss
    shortfall: Callable[[Evidence], Float[Array, ""]] | None = None
    fooled: Callable[[float, bool], bool] | None = None
    needs_target: bool = False

    @property
    def name(self) -> str:
        """As records have it: the name in `OBJECTIVES`, or else the function's own.

        A function that only shares its name with one of `OBJECTIVES` has its module in front.
        """
        for name, known in OBJECTIVES.items():
            if known == self:
                return name
        own = getattr(self.loss, "__name__", type(self.loss).__name__)
        return f"{self.loss.__module__}:{own}" if own in OBJECTIVES else own


def fooled_explanation(name: str, energy: float, points: bool) -> bool | None:
    """Whether a map fools as the objective that a record names wants; None if it wants nothing.

    Args:
        name: as `Objective.name` gives it; a function of one's own wants nothing.
        energy: the share of the map's mass in the patch.
        points: whether the map's maximum lies in the patch.
    """
    known = OBJECTIVES.get(name)
    return None if known is None or known.fooled is None else known.fooled(energy, points)


def as_objective(given: Any) -> Objective:
    """An objective from its name, from a loss (a function of `Evidence`), or as it is.

    Raises:
        ObjectiveError: there is none of this name, or it is no function.
    """
    if isinstance(given, Objective):
        return given
    if isinstance(given, str):
        if given not in OBJECTIVES:
            choices = ", ".join(OBJECTIVES)
            raise ObjectiveError(f"there is no objective {given!r}; choose one of {choices}")
        return OBJECTIVES[given]
    if not callable(given):
        raise ObjectiveError(f"the objective is {given!r}; give a name or a function of Evidence")
    return next((known for known in OBJECTIVES.values() if known.loss is given), Objective(given))


def _nothing(evidence: Evidence) -> Float[Array, ""]:
    return jnp.zeros((), evidence.logits.dtype)


def _too_much(evidence: Evidence) -> Float[Array, ""]:
    """The share of the heat on the patch that is too much to be hidden."""
    return jnp.maximum(energy(evidence.heat, evidence.coverage) - (HIDDEN - MARGIN), 0)


def _too_little(evidence: Evidence) -> Float[Array, ""]:
    """The share that is missing on the patch, and 0.1 where the maximum lies elsewhere."""
    share = energy(evidence.heat, evidence.coverage)
    covered = evidence.coverage.ravel()[evidence.heat.argmax()] >= 0.5
    return jnp.maximum(HIGHLIGHTED + MARGIN - share, 0) + 0.1 * ~covered


def _hidden(energy: float, points: bool) -> bool:
    return energy <= HIDDEN


def _highlighted(energy: float, points: bool) -> bool:
    return energy >= HIGHLIGHTED and points


OBJECTIVES: dict[str, Objective] = {
    "hide": Objective(losses.hide, _too_much, _hidden),
    "highlight": Objective(losses.highlight, _too_little, _highlighted),
    "classify": Objective(losses.classify, _nothing),
    "paper": Objective(losses.paper, fooled=_highlighted),  # what the paper's figures show
    "subramanya": Objective(losses.subramanya, fooled=_hidden),
    "centre-of-mass": Objective(losses.centre_of_mass),
    "top-k": Objective(losses.top_k(10)),
    "keep": Objective(losses.keep),
    "swap": Objective(losses.swap, needs_target=True),
    "rank-correlation": Objective(losses.rank_correlation),
    "total-variation": Objective(losses.total_variation),
}
