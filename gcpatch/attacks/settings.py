"""How a patch is optimised: the settings of an attack."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import jax
import optax

from gcpatch.attacks.objectives import ObjectiveError, as_objective
from gcpatch.errors import UserError
from gcpatch.explainers.cam import METHODS, Cam

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
@dataclass(frozen=True, kw_only=True)
class Attack:
    """How a patch is optimised. In a jitted function its numbers are data, the rest is static.

    Attributes:
        objective: what to minimise and to reach: a name in `objectives.OBJECTIVES`, an
            `Objective`, or a function of `Evidence`; kept as an `Objective`.
        steps: the most steps to take for an image.
        optimizer: a name in `OPTIMIZERS`, or any optax transformation, which brings its own rate;
            it works in the network's normalised units, as [16].
        learning_rate: a named optimiser's step; `LEARNING_RATES[optimizer]` if None.
        ce_weight: the weight of the cross-entropy beside the objective (alpha in eq. 5).
        ce_gate: whether the cross-entropy counts only while `confidence_gap` is over 0.
        confidence: the probability of the target that is enough; 0 asks for the top class alone.
        init: the patch before the first step: the `mean` colour, the `image` itself, `random`
            pixels, or `clean`: the mean colour, but the first step sees the clean image, as [16].
        project: whether the patch is kept to valid pixels; the image always is.
        layer: the layer whose map is attacked and judged; the network's target layer if None.
        explainer: what makes that map: a name in `gcpatch.explainers.cam.METHODS`, or a `Cam`; kept
            as a `Cam`.
        patience: stop once the goal is met for this many steps in a row.

    Raises:
        AttackError: a value is unknown or out of range.
    """

    objective: Any = "hide"
    steps: int = 1000
    optimizer: str | optax.GradientTransformation = "adam"
    learning_rate: float | None = None
    ce_weight: float = 0.05
    ce_gate: bool = True
    confidence: float = 0.9
    init: str = "mean"
    project: bool = True
    patience: int = 1
    layer: str | None = None
    explainer: Any = "grad-cam"

    def __post_init__(self):
        try:
            object.__setattr__(self, "objective", as_objective(self.objective))
        except ObjectiveError as error:
            raise AttackError(str(error)) from None
        object.__setattr__(self, "explainer", _as_cam(self.explainer))
        if not isinstance(self.optimizer, str | optax.GradientTransformation):
            raise AttackError(
                f"the optimizer is {self.optimizer!r}; give a name or an optax transformation"
            )
        for name, value, choices in (
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
        if self.learning_rate is not None and not isinstance(self.optimizer, str):
            raise AttackError(
                f"the learning rate is {self.learning_rate}, but an optimiser that is not named "
                "brings its own; leave it out"
            )
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


def _as_cam(given: Any) -> Cam:
    if isinstance(given, Cam):
        return given
    if not isinstance(given, str) or given not in METHODS:
        raise AttackError(
            f"the explainer {given!r} is none that an attack can take; choose one of "
            f"{', '.join(METHODS)}, or give a Cam"
        )
    return METHODS[given]
