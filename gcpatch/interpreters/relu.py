"""A network with something else in the place of each ReLU, its code and its weights untouched.

Each stage is traced and its jaxpr evaluated, with another function wherever `jax.nn.relu` was
called. What is rectified in another way, such as `jnp.maximum(x, 0)`, stays as it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Float

from gcpatch.errors import UserError
from gcpatch.interpreters.jaxpr import Equation, bind, evaluate, is_relu, jaxprs_inside
from gcpatch.networks import Network
from gcpatch.networks.network import Stage

Rectifier = Callable[[Float[Array, "*any"]], Float[Array, "*any"]]


class Exchanged(Network):
    """A network with `rectifier` for every ReLU; all else, its names and layers, are the same.

    Networks are equal to `jax.jit` where their rectifiers are equal.
    """

    def __init__(self, network: Network, rectifier: Rectifier):
        super().__init__(
            network.name, network.target_layer, network.categories, network.preprocessing
        )
        self.network, self.rectifier = network, rectifier

    def stages(self) -> Mapping[str, Stage]:
        """The network's stages, each with the ReLUs exchanged."""
        stages = self.network.stages().items()
        return {name: exchange(stage, self.rectifier) for name, stage in stages}


def exchange(function: Stage, rectifier: Rectifier) -> Stage:
    """The function of one array with `rectifier` in the place of each `jax.nn.relu`.

    Raises:
        TypeError: when called, where a ReLU lies inside a loop, a branch, or a function with a
            derivative of its own.
    """

    def exchanged(value: Array) -> Array:
        return evaluate(jax.make_jaxpr(function)(value), [value], partial(_bind, rectifier))[0]

    return exchanged


@dataclass(frozen=True)
class Softplus:
    """log(1 + exp(beta x)) / beta, at most log(2) / beta above ReLU."""

    beta: float

    def __call__(self, x: Float[Array, "*any"]) -> Float[Array, "*any"]:
        """Of each entry."""
        return jax.nn.softplus(self.beta * x) / self.beta


def smooth(network: Network, beta: float = 10.0) -> Network:
    """The network with softplus for ReLU: log(1 + exp(beta x)) / beta, in trunk and head.

    Dombrowski et al., "Explanations can be manipulated and geometry is to blame", NeurIPS 2019.
    For losses on gradient explanations: a network of ReLUs is piecewise linear, its second
    derivative zero almost everywhere, and gradient descent on its gradient goes nowhere. Any
    explainer takes the smooth network; the larger beta, the nearer it is to the network itself.

    Raises:
        UserError: beta is not over 0.
    """
    if not beta > 0:
        raise UserError(f"beta is {beta}; it must be over 0")
    return Exchanged(network, Softplus(beta))


def _bind(rectifier: Rectifier, equation: Equation, values: list[Any]) -> list[Any]:
    """An equation's outputs with the rectifier in the place of ReLU, also inside a `jax.jit`."""
    if is_relu(equation):
        return [rectifier(*values)]
    if not _has_relu(equation):
        return bind(equation, values)
    if equation.primitive.name not in ("jit", "pjit"):
        raise TypeError(f"a ReLU inside {equation.primitive.name} cannot be exchanged")
    return evaluate(equation.params["jaxpr"], values, partial(_bind, rectifier))


def _has_relu(equation: Equation) -> bool:
    inner = (part for jaxpr in jaxprs_inside(equation) for part in jaxpr.eqns)
    return is_relu(equation) or any(map(_has_relu, inner))
