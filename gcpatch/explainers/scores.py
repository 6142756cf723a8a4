"""Scores: the number that an explanation explains, a function of the logits and of a class."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Score = Callable[[Float[Array, " classes"], Int[Array, ""] | int], Float[Array, ""]]


def logit(logits: Float[Array, " classes"], label: Int[Array, ""] | int) -> Float[Array, ""]:
    """y_c."""
    return logits[label]


def log_softmax(logits: Float[Array, " classes"], label: Int[Array, ""] | int) -> Float[Array, ""]:
    """y_c - log sum_j exp y_j: the logarithm of the class's probability."""
    return jax.nn.log_softmax(logits)[label]


def margin(logits: Float[Array, " classes"], label: Int[Array, ""] | int) -> Float[Array, ""]:
    """y_c - max_{j != c} y_j: over 0 where c is the top class."""
    others = jnp.where(jnp.arange(logits.size) == label, -jnp.inf, logits)
    return logits[label] - others.max()
