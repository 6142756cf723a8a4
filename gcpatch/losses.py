"""Scalar losses on one adversarial image, one function for each equation.

A loss takes the `Evidence` of one evaluation and returns a scalar; its gradient comes from JAX.
The attack minimises `objective(evidence) + ce_weight * cross_entropy(evidence)`. What needs more
(a mask, a goal, k, colours) is given it first: `location(mask)` is a loss. A sum is a function too:

    lambda evidence: hide(evidence) + 0.5 * total_variation(evidence)

Grad-CAM has no scale of its own, so that maps are compared after division by their sum or mean. An
all-zero map stays all zeros.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gcpatch.errors import UserError
from gcpatch.networks.network import ArrayLike


class Evidence(NamedTuple):
    """What a loss may use.

    Attributes:
        image: the adversarial image, in [0, 1].
        tile: the patch as it lies in the image.
        logits: the network's answer to the image.
        heat: Grad-CAM of the target class, not normalised.
        coverage: the share of each of the map's cells that the patch covers.
        target: the class that the attack wants; of an untargeted one the most probable class but
            the label in this evaluation.
        label: the clean image's true class where that was given, else its top class.
        explain: Grad-CAM of any class on the adversarial image; `heat` is `explain(target)`.
        clean_heat: Grad-CAM of the top class on the clean image.
        clean_heat_of_target: Grad-CAM of the target class on the clean image; None of an untargeted
            attack.
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
    clean_heat_of_target: Float[Array, "h2 w2"] | None


Loss = Callable[[Evidence], Float[Array, ""]]


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


def location(mask: Float[ArrayLike, "h2 w2"]) -> Loss:
    """The share of the heat outside a mask of the map's cells: 1 - sum(G * M) / sum(G).

    Ghorbani et al., "Interpretation of neural networks is fragile", AAAI 2019: targeted attack.
    `metrics.object_weights` makes such a mask from one of pixels.
    """

    def location(evidence: Evidence) -> Float[Array, ""]:
        return 1 - energy(evidence.heat, jnp.asarray(mask))

    return location


def centre_of_mass(evidence: Evidence) -> Float[Array, ""]:
    """-|C(G) - C(clean G)|, C = sum_ij [i, j] G_ij / sum(G), in units of the map's sides.

    Ghorbani et al., AAAI 2019: mass-centre attack. 0 if either map is all zeros, and has no centre.
    """
    both = evidence.heat, evidence.clean_heat
    distance = _length(jnp.subtract(*map(centre, both)))
    return jnp.where(both[0].any() & both[1].any(), -distance, 0)


def top_k(k: int) -> Loss:
    """The share of the heat in the k cells that were hottest in the clean image.

    Ghorbani et al., AAAI 2019: top-k attack. Cells without any heat are not among the k.
    """

    def top_k(evidence: Evidence) -> Float[Array, ""]:
        hottest, cells = jax.lax.top_k(evidence.clean_heat.ravel(), k)
        chosen = jnp.zeros(evidence.heat.size, evidence.heat.dtype).at[cells].set(hottest > 0)
        return energy(evidence.heat, chosen.reshape(evidence.heat.shape))

    return top_k


def target_map(goal: Float[ArrayLike, "h2 w2"]) -> Loss:
    """mean((G / mean(G) - T / mean(T))^2), T the map to show.

    Dombrowski et al., "Explanations can be manipulated and geometry is to blame", NeurIPS 2019: the
    loss's first term. Heo et al. (see `swap`) give it a mask as the goal: location fooling.
    """

    def target_map(evidence: Evidence) -> Float[Array, ""]:
        return square_error(evidence.heat, jnp.asarray(goal))

    return target_map


def target_cosine(goal: Float[ArrayLike, "h2 w2"]) -> Loss:
    """1 - sum(G * T) / (|G| |T|), T the map to show; 1 for an all-zero map."""

    def target_cosine(evidence: Evidence) -> Float[Array, ""]:
        return 1 - _cosine(shares(evidence.heat), shares(jnp.asarray(goal)))

    return target_cosine


def keep(evidence: Evidence) -> Float[Array, ""]:
    """`target_map` of the clean image's own map: what is shown does not change."""
    return target_map(evidence.clean_heat)(evidence)


def swap(evidence: Evidence) -> Float[Array, ""]:
    """The square errors of label's map to target's clean map, and of target's to label's, halved.

    Heo, Joo and Moon, "Fooling neural network interpretations via adversarial model manipulation",
    NeurIPS 2019: active fooling, there by the weights. The label's clean map is that of the clean
    image's top class; a true label that the network does not name makes no sense here.

    Raises:
        UserError: the attack is untargeted, and there is no target to swap with.
    """
    if evidence.clean_heat_of_target is None:
        raise UserError("swap needs a target, which an untargeted attack lacks")
    there = square_error(evidence.explain(evidence.label), evidence.clean_heat_of_target)
    back = square_error(evidence.heat, evidence.clean_heat)
    return (there + back) / 2


def rank_correlation(evidence: Evidence, temperature: float = 0.1) -> Float[Array, ""]:
    """Spearman's correlation of map and clean map with soft ranks; 0 if either is constant.

    Ghorbani et al., AAAI 2019, measure attacks by the exact one. Soft ranks are sums of sigmoids,
    sum_j 1 / (1 + exp((G_j - G_i) / (temperature * mean(G)))), after Qin, Liu and Li, "A general
    approximation framework for direct optimization of information retrieval measures", 2010. The
    clean map's ranks are exact, their limit at temperature 0, where ties share a rank.
    """
    heat, clean = (_relative(each).ravel() for each in (evidence.heat, evidence.clean_heat))
    soft = jnp.tanh((heat[:, None] - heat) / (2 * temperature)).sum(1)  # 2 (rank - mean rank)
    return _cosine(soft, jnp.sign(clean[:, None] - clean).sum(1))


def total_variation(evidence: Evidence) -> Float[Array, ""]:
    """The patch's mean over pixels of |(x_(i+1)j - x_ij, x_i(j+1) - x_ij)|, over all colours.

    Sharif et al., "Accessorize to a crime", CCS 2016, where it is a sum. Nothing follows the last
    row and column.
    """
    tile = evidence.tile
    down = jnp.diff(tile, axis=0, append=tile[-1:])
    right = jnp.diff(tile, axis=1, append=tile[:, -1:])
    return _length(jnp.concatenate([down, right], -1)).mean()


def printability(colours: Float[ArrayLike, "n 3"]) -> Loss:
    """The patch's mean over pixels of prod_c |x - c|, c the colours (in [0, 1]) that print well.

    Sharif et al., CCS 2016: non-printability score, there a sum over pixels.
    """

    def printability(evidence: Evidence) -> Float[Array, ""]:
        return _length(evidence.tile[:, :, None] - jnp.asarray(colours)).prod(-1).mean()

    return printability


def energy(heat: Float[Array, "h w"], weights: Float[Array, "h w"]) -> Float[Array, ""]:
    """The share of the heat under the weights, sum(G * P) / sum(G); 0 for an all-zero map."""
    return jnp.sum(heat * weights) / _or_one(jnp.sum(heat))


def shares(heat: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """The map divided by its sum."""
    return heat / _or_one(jnp.sum(heat))


def centre(heat: Float[Array, "h w"]) -> Float[Array, "2"]:
    """The centre of mass (row, column), from 0 at one side of the map to 1 at the other."""
    rows, columns = ((jnp.arange(count) + 0.5) / count for count in heat.shape)
    return jnp.stack([shares(heat).sum(1) @ rows, shares(heat).sum(0) @ columns])


def square_error(heat: Float[Array, "h w"], goal: Float[Array, "h w"]) -> Float[Array, ""]:
    """The mean squared difference of two maps, each divided by its mean."""
    return jnp.mean((_relative(heat) - _relative(goal)) ** 2)


def _relative(heat: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """The map divided by its mean."""
    return shares(heat) * heat.size


def _length(vectors: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """Euclidean lengths; that of a zero vector has the gradient 0."""
    square = jnp.sum(vectors**2, axis=-1)
    return jnp.where(square > 0, jnp.sqrt(_or_one(square)), 0)


def _cosine(first: Float[Array, "*n"], second: Float[Array, "*n"]) -> Float[Array, ""]:
    """The cosine of the angle between two vectors; 0 if either is zero."""
    return jnp.sum(first * second) / _or_one(_length(first.ravel()) * _length(second.ravel()))


def _or_one(value: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """What to divide by: 1 where the value is 0."""
    return jnp.where(value > 0, value, 1)
