"""How a patch is optimised: the settings of an attack."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import optax

from gcpatch.errors import UserError
from gcpatch.losses import OBJECTIVES, Objective

OPTIMIZERS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "sign": optax.sign_sgd,
    "sgd": optax.sgd,
    "momentum": partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
}

LEARNING_RATES = {"sign": 0.05, "sgd": 50.0, "momentum": 5.0, "adam": 0.1}

NUMBERS = ("steps", "learning_rate", "ce_weight", "confidence", "patience")

STARTS = ("mean", "image", "random", "clean")


class AttackError(UserError):
    """An attack that cannot be: a setting is unknown or out of range."""


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Attack:
    """How a patch is optimised. In a jitted function its numbers are data, the rest is static.

    Attributes:
        objective: a name in `losses.OBJECTIVES`, or a function of `Evidence` to minimise.
        steps: the most steps to take for an image.
        optimizer: a name in `OPTIMIZERS`; it works in the network's normalised units, as [16].
        learning_rate: its step; `LEARNING_RATES[optimizer]` if None.
        ce_weight: the weight of the cross-entropy beside the objective (alpha in eq. 5).
        ce_gate: whether the cross-entropy counts only while `confidence_gap` is over 0.
        confidence: the probability of the target that is enough; 0 asks for the top class alone.
        init: the patch before the first step: the `mean` colour, the `image` itself, `random`
            pixels, or `clean`: the mean colour, but the first step sees the clean image, as [16].
        project: whether the patch is kept to valid pixels; the image always is.
        patience: stop once the goal is met for this many steps in a row.

    Raises:
        AttackError: a value is unknown or out of range.
    """

    objective: str | Objective = "hide"
    steps: int = 1000
    optimizer: str = "adam"
    learning_rate: float | None = None
    ce_weight: float = 0.05
    ce_gate: bool = True
    confidence: float = 0.9
    init: str = "mean"
    project: bool = True
    patience: int = 1

    def __post_init__(self):
        for name, value, choices in (
            ("objective", self.objective, OBJECTIVES),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("init", self.init, STARTS),
        ):
            if isinstance(value, str) and value not in choices:
                raise AttackError(
                    f"there is no {name} {value!r}; choose one of {', '.join(choices)}"
                )
        for name in ("steps", "patience"):
            if getattr(self, name) < 1:
                raise AttackError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise AttackError(f"the learning rate is {self.learning_rate}; it must be over 0")
        if not 0 <= self.confidence < 1:
            raise AttackError(f"the confidence is {self.confidence}; it must be in [0, 1)")
        if not self.ce_weight >= 0:
            raise AttackError(f"ce_weight is {self.ce_weight}; it must be at least 0")

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

    @property
    def loss(self) -> Objective:
        """The objective as a function."""
        return OBJECTIVES[self.objective] if isinstance(self.objective, str) else self.objective

    @property
    def rate(self) -> Any:
        """The learning rate, given or the optimiser's own."""
        return LEARNING_RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    @property
    def transformation(self) -> optax.GradientTransformation:
        """The optimiser with its learning rate."""
        return OPTIMIZERS[self.optimizer](self.rate)
