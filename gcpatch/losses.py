"""Scalar losses on one adversarial image, one function for each equation.

A loss takes the `Evidence` of one evaluation and returns a scalar; its gradient comes from JAX.
The attack minimises `objective(evidence) + ce_weight * cross_entropy(evidence)`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Evidence(NamedTuple):
    """What a loss may use.

    Attributes:
        image: the adversarial image, in [0, 1].
        tile: the patch as it lies in the image.
        logits: the network's answer to the image.
        heat: Grad-CAM of the target class, not normalised.
        coverage: the share of each of the map's cells that the patch covers.
        target: the class that the attack wants.
        label: the clean image's true class where that was given, else its top class.
        explain: Grad-CAM of any class on the adversarial image; `heat` is `explain(target)`.
        clean_heat: Grad-CAM of the top class on the clean image.
        clean_heat_of_target: Grad-CAM of the target class on the clean image.
    """

    image: Float[Array, "h w 3"]
    tile: Float[Array, "rows columns 3"]
    logits: Float[Array, " classes"]
    heat: Float[Array, "h2 w2"]
    coverage: Float[Array, "h2 w2"]
    target: Int[Array, ""]
    label: Int[Array, ""]
    explain: Callable[[Int[Array, ""]], Float[Array, "h2 w2"]]
    clean_heat: Float[Array, "h2 w2"]
    clean_heat_of_target: Float[Array, "h2 w2"]


Objective = Callable[[Evidence], Float[Array, ""]]


def cross_entropy(evidence: Evidence) -> Float[Array, ""]:
    """-log softmax(logits)[target] (paper, eq. 11)."""
    return -jax.nn.log_softmax(evidence.logits)[evidence.target]


def hide(evidence: Evidence) -> Float[Array, ""]:
    """Mean heat on the patch: sum(G * P) / sum(P), P the coverage (paper, eq. 5, first term)."""
    return jnp.sum(evidence.heat * evidence.coverage) / jnp.sum(evidence.coverage)


def highlight(evidence: Evidence) -> Float[Array, ""]:
    """The share of the heat outside the patch: 1 - sum(G * P) / sum(G) (the paper's figures)."""
    return 1 - energy(evidence.heat, evidence.coverage)


def classify(evidence: Evidence) -> Float[Array, ""]:
    """Zero: the cross-entropy alone, a plain targeted patch (the baseline)."""
    return jnp.zeros((), evidence.logits.dtype)


def paper(evidence: Evidence) -> Float[Array, ""]:
    """sum(G[:n, :n]) / 16, n = 4 for a 64-pixel patch, else 2 (paper, algorithm 1, lines 16-20).

    As printed: the map's top left cells wherever the patch lies, and 16 for 2x2 cells too.
    """
    count = 4 if evidence.tile.shape[0] == 64 else 2
    return jnp.sum(evidence.heat[:count, :count]) / 16


def subramanya(evidence: Evidence) -> Float[Array, ""]:
    """The 4x4 top left cells of G / (sum(G) + 1e-10), summed and divided by 16.

    Subramanya et al., 2019 ([16] in the paper).
    """
    return jnp.sum(evidence.heat[:4, :4] / (jnp.sum(evidence.heat) + 1e-10)) / 16


def energy(heat: Float[Array, "h w"], weights: Float[Array, "h w"]) -> Float[Array, ""]:
    """The share of the heat under the weights, sum(G * P) / sum(G); 0 for an all-zero map."""
    total = jnp.sum(heat)
    return jnp.sum(heat * weights) / jnp.where(total > 0, total, 1)


OBJECTIVES: dict[str, Objective] = {
    "hide": hide,
    "highlight": highlight,
    "classify": classify,
    "paper": paper,
    "subramanya": subramanya,
}
