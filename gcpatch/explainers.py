"""Explanations of a network's decision: pure functions of one image, to vmap, jit and grad."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gcpatch.networks import Network
from gcpatch.networks.network import ArrayLike

Head = Callable[[Float[Array, "h w k"]], Float[Array, " classes"]]


def grad_cam(
    network: Network, image: Float[ArrayLike, "h w 3"], label: Int[Array, ""] | int,
    *, layer: str | None = None,
) -> Float[Array, "h2 w2"]:  # fmt: skip
    """Grad-CAM: ReLU(sum_k alpha_k A^k) with alpha_k = mean_ij dy_c / dA^k_ij.

    Selvaraju et al., 2017; paper, eqs. 1-3. The map has the layer's resolution and is not
    normalised: all zeros where nothing speaks for the class.

    Args:
        network: the network to explain.
        image: RGB in [0, 1].
        label: the class c, whose logit y_c is explained.
        layer: the layer whose activations are A; the network's target layer if None.
    """
    trunk, head = network.split(layer)
    return logits_and_grad_cam(head, trunk(jnp.asarray(image)), label)[1]


def logits_and_grad_cam(
    head: Head, activations: Float[Array, "h w k"], label: Int[Array, ""] | int
) -> tuple[Float[Array, " classes"], Float[Array, "h w"]]:
    """The logits, and Grad-CAM of `label`, from the target layer's activations A."""

    def score(activations):
        logits = head(activations)
        return logits[label], logits

    gradient, logits = jax.grad(score, has_aux=True)(activations)
    alpha = gradient.mean((0, 1))
    return logits, jax.nn.relu(activations @ alpha)


@jax.jit
def look(
    network: Network, image: Float[ArrayLike, "h w 3"], label: Int[ArrayLike, ""] | int
) -> tuple[Float[Array, " classes"], Float[Array, "h2 w2"]]:
    """The logits of one image, and Grad-CAM of one class; of the top class where it is negative."""
    trunk, head = network.split()
    activations = trunk(jnp.asarray(image))
    label = jnp.where(label < 0, head(activations).argmax(), label)
    return logits_and_grad_cam(head, activations, label)
