"""How a patch is optimised: the settings of an attack."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import jax
import optax

from gcpatch.attacks.fields import REACHES, STARTS, Fields
from gcpatch.attacks.objectives import OBJECTIVES, ObjectiveError, as_objective
from gcpatch.errors import UserError
from gcpatch.explainers.cam import METHODS, Cam
from gcpatch.settings import check, documented, is_number

OPTIMIZERS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "sign": optax.sign_sgd,
    "sgd": optax.sgd,
    "momentum": partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
}

LEARNING_RATES = {"sign": 0.05, "sgd": 50.0, "momentum": 5.0, "adam": 0.2}

# What is data in a jitted function; the rest is static.
NUMBERS = ("steps", "learning_rate", "ce_weight", "confidence", "patience")


class AttackError(UserError):
    """An attack that cannot be: a setting is unknown or out of range."""


@jax.tree_util.register_pytree_node_class
@documented
@dataclass(frozen=True, kw_only=True)
class Attack(Fields):
    """How a patch is optimised. In a jitted function its numbers are data, the rest is static.

    `objective` is kept as an `Objective`, and `explainer` as a `Cam`.

    Raises:
        AttackError: a value is unknown or out of range.
    """

    def __post_init__(self):
        try:
            object.__setattr__(self, "objective", as_objective(self.objective))
        except ObjectiveError as error:
            raise AttackError(str(error)) from None
        check(self, AttackError)
        if isinstance(self.explainer, str):
            object.__setattr__(self, "explainer", METHODS[self.explainer])
        if not isinstance(self.explainer, Cam):
            choices = ", ".join(METHODS)
            raise AttackError(
                f"the explainer is {self.explainer!r}; choose one of {choices}, or give a Cam"
            )
        if self.ring and self.objective.name in OBJECTIVES and self.objective.name != "hide":
            raise AttackError(
                f"ring is {self.ring}, but {self.objective.name} clears no cells; only hide does, "
                "and a function of your own that uses the coverage"
            )
        if is_number(self.reach, whole=True) and self.reach >= 0:
            object.__setattr__(self, "reach", int(self.reach))
        elif self.reach not in REACHES:
            raise AttackError(
                f"the reach is {self.reach!r}; it must be {', '.join(REACHES)}, or a whole number "
                "of cells from 0 on"
            )
        if self.restart and self.reach != "exact":
            raise AttackError(
                f"restart is True and the reach is {self.reach!r}; only with the exact reach does "
                "an attack restart"
            )
        if not isinstance(self.optimizer, str | optax.GradientTransformation):
            raise AttackError(
                f"the optimizer is {self.optimizer!r}; give a name or an optax transformation"
            )
        if self.learning_rate is not None and not isinstance(self.optimizer, str):
            raise AttackError(
                f"learning_rate is {self.learning_rate}, but an optimiser that is not named "
                "brings its own; leave it out"
            )

    def tree_flatten(self):
        """The numbers, and what is static."""
        values = vars(self) | {"learning_rate": self.rate}
        return [values[name] for name in NUMBERS], tuple(
            (name, value) for name, value in values.items() if name not in NUMBERS
        )

    @classmethod
    def tree_unflatten(cls, static, numbers):
        """An attack whose numbers JAX traces; they were checked before."""
        attack = object.__new__(cls)
        vars(attack).update(static, **dict(zip(NUMBERS, numbers, strict=True)))
        return attack

    def check_untargeted(self, start: Any = None) -> None:
        """Raises AttackError where the objective, or a library to start from, needs a target."""
        if self.objective.needs_target:
            possible = ", ".join(n for n, one in OBJECTIVES.items() if not one.needs_target)
            raise AttackError(
                f"{self.objective.name} needs a target, which an untargeted attack lacks; choose "
                f"one of {possible}"
            )
        if start is not None:
            raise AttackError(
                "a library has a patch for each target, which an untargeted attack lacks; start "
                f"from one of {', '.join(STARTS)}"
            )

    @property
    def rate(self) -> Any:
        """The learning rate, given or the named optimiser's own; None for any other optimiser."""
        if self.learning_rate is None and isinstance(self.optimizer, str):
            return LEARNING_RATES[self.optimizer]
        return self.learning_rate

    @property
    def transformation(self) -> optax.GradientTransformation:
        """The optimiser with its learning rate."""
        if isinstance(self.optimizer, str):
            return OPTIMIZERS[self.optimizer](self.rate)
        return self.optimizer

    @property
    def explainer_name(self) -> str:
        """The explainer's name in `METHODS`, or else its rule's own."""
        own = getattr(self.explainer.rule, "__name__", "a rule of one's own")
        return next((name for name, cam in METHODS.items() if cam == self.explainer), own)

    def describe(self) -> dict[str, Any]:
        """The settings as JSON can say them: objective and optimiser by name."""
        named = isinstance(self.optimizer, str)
        return {field.name: getattr(self, field.name) for field in fields(self)} | {
            "objective": self.objective.name,
            "optimizer": self.optimizer if named else "an optax transformation of one's own",
            "explainer": self.explainer_name,
        }
