"""Explanations of pixels by gradients: pure functions of one image, to vmap, jit and grad.

With ds / dx `[h, w, 3]` the gradient of a score s of class c by the image in [0, 1], each function
gives a map `[h, w]` at the image's resolution: a saliency, max over the colours of the absolute
value, or an attribution, the sum over the colours, which is negative where a pixel speaks against
the class. captum leaves the colours apart.

A network of ReLUs is piecewise linear, so that the derivative of these maps by the image is
mostly zero; explain `gcpatch.smooth(network)` to descend on them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from gcpatch.errors import UserError
from gcpatch.explainers import checks
from gcpatch.explainers.cam import Explainer
from gcpatch.explainers.checks import Label
from gcpatch.explainers.scores import Score, logit
from gcpatch.interpreters.relu import Exchanged
from gcpatch.networks import Network
from gcpatch.networks.network import ArrayLike

AT_A_TIME = 10  # images of which gradients are taken together


def input_gradient(
    network: Network,
    image: Float[ArrayLike, "h w 3"],
    label: Label,
    *,
    score: Score = logit,
) -> Float[Array, "h w"]:
    """The saliency map: max over the colours of |ds / dx|.

    Simonyan, Vedaldi and Zisserman, "Deep inside convolutional networks", 2014, section 3.1.

    Args:
        network: the network to explain.
        image: RGB in [0, 1].
        label: the class c that is explained, its ID or name.
        score: what of the logits is explained, such as `gcpatch.scores.margin`.
    """
    image, label = checks.image(image), checks.label(network, label)
    return _saliency(_gradient(network, image, label, score))


def gradient_x_input(
    network: Network,
    image: Float[ArrayLike, "h w 3"],
    label: Label,
    *,
    score: Score = logit,
) -> Float[Array, "h w"]:
    """Gradient x input: the sum over the colours of x ds / dx, x in [0, 1].

    Shrikumar et al., "Not just a black box", 2016 (arXiv:1605.01713). Arguments as in
    `input_gradient`.
    """
    image, label = checks.image(image), checks.label(network, label)
    return (image * _gradient(network, image, label, score)).sum(-1)


def smoothgrad(
    network: Network,
    image: Float[ArrayLike, "h w 3"],
    label: Label,
    *,
    key: Key[Array, ""],
    samples: int = 50,
    sigma: float = 0.15,
    score: Score = logit,
) -> Float[Array, "h w"]:
    """SmoothGrad: the saliency of the mean of ds / dx at x + N(0, sigma^2), over the samples.

    Smilkov et al., "SmoothGrad", 2017 (arXiv:1706.03825). The mean is taken of the gradients, and
    the absolute value of the mean. Arguments as in `input_gradient`, and:

    Args:
        key: of the noise.
        samples: the number of noisy images, which are not cut to [0, 1].
        sigma: the noise's standard deviation; 0.1 to 0.2 of the pixels' range in the paper.

    Raises:
        UserError: there are no samples.
    """
    if samples < 1:
        raise UserError(f"samples is {samples}; it must be at least 1")
    image, label = checks.image(image), checks.label(network, label)
    noise = sigma * jax.random.normal(key, (samples, *image.shape), image.dtype)
    return _saliency(_gradients(network, image + noise, label, score).mean(0))


def integrated_gradients(
    network: Network,
    image: Float[ArrayLike, "h w 3"],
    label: Label,
    *,
    baseline: Float[ArrayLike, "h w 3"] | float = 0.0,
    steps: int = 50,
    score: Score = logit,
) -> Float[Array, "h w"]:
    """Integrated gradients: the sum over the colours of (x - b) int_0^1 ds / dx(b + t (x - b)) dt.

    Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", ICML 2017, eq. 1. The map
    sums to s(x) - s(b) as far as the quadrature goes: Gauss and Legendre's, as in captum (the
    paper's is Riemann's sum). Arguments as in `input_gradient`, and:

    Args:
        baseline: the image b, or the value of all its pixels; black.
        steps: the number of gradients.

    Raises:
        UserError: there are no steps.
    """
    if steps < 1:
        raise UserError(f"steps is {steps}; it must be at least 1")
    image, label = checks.image(image), checks.label(network, label)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    places = jnp.asarray((1 + nodes) / 2, image.dtype)[:, None, None, None]
    start = jnp.asarray(baseline, image.dtype)
    change = image - start
    gradients = _gradients(network, start + places * change, label, score)
    mean = jnp.einsum(
        "n,nhwc->hwc",
        jnp.asarray(weights / 2, image.dtype),
        gradients,
        precision=jax.lax.Precision.HIGHEST,
    )
    return (change * mean).sum(-1)


def guided_backprop(
    network: Network,
    image: Float[ArrayLike, "h w 3"],
    label: Label,
    *,
    score: Score = logit,
) -> Float[Array, "h w"]:
    """Guided backpropagation: the saliency map where each ReLU passes back ReLU(g) [x > 0], not g.

    Springenberg et al., "Striving for simplicity", 2015, section 3.4. The derivative of the map by
    the image is that of these equations. Arguments as in `input_gradient`.
    """
    return input_gradient(Exchanged(network, _guided), image, label, score=score)


METHODS: dict[str, Explainer] = {
    "input-gradient": input_gradient,
    "gradient-x-input": gradient_x_input,
    "smoothgrad": lambda network, image, label: smoothgrad(
        network, image, label, key=jax.random.key(0)
    ),
    "integrated-gradients": integrated_gradients,
    "guided-backprop": guided_backprop,
}


def _gradient(network, image, label, score):
    """ds / dx `[h, w, 3]`."""
    return jax.grad(lambda image: score(network(image), label))(image)


def _gradients(network, images, label, score):
    """ds / dx of several images, a few at a time: no loop, whose body is slow on CPUs."""
    parts = range(0, len(images), AT_A_TIME)
    many = jax.vmap(lambda image: _gradient(network, image, label, score))
    return jnp.concatenate([many(images[start : start + AT_A_TIME]) for start in parts])


def _saliency(gradient):
    return jnp.abs(gradient).max(-1)


@jax.custom_vjp
def _guided(x):
    return jax.nn.relu(x)


_guided.defvjp(lambda x: (jax.nn.relu(x), x), lambda x, g: (jax.nn.relu(g) * (x > 0),))
