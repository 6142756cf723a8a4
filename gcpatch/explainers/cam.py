"""Explanations at a layer, the CAM family: pure functions of one image, to vmap, jit and grad.

With A the layer's activations `[h, w, k]` and g = ds / dA the gradient of a score s of class c,
each explainer is a rule that makes a map `[h, w]` of both, at the layer's resolution, never
negative and not normalised: all zeros where nothing speaks for the class. Where implementations of
an equation differ the map is that of pytorch-grad-cam before it is scaled.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gcpatch.errors import UserError
from gcpatch.explainers import checks
from gcpatch.explainers.checks import Label
from gcpatch.explainers.scores import Score, logit
from gcpatch.networks import Network
from gcpatch.networks.network import ArrayLike

Maps = Float[Array, "h w k"]
Heat = Float[Array, "h w"]
Head = Callable[[Maps], Float[Array, " classes"]]
Explainer = Callable[[Network, Float[ArrayLike, "h w 3"], Label], Float[Array, "h2 w2"]]


@dataclass(frozen=True)
class Cam:
    """An explainer of the CAM family, made of its rule: `Cam(rule)`, or `@Cam` above the rule.

    Attributes:
        rule: a function of A and g, `[h, w, k]` both, that gives the map; it may have options,
            which are then options of the explainer.
    """

    rule: Callable[..., Heat]

    def __post_init__(self):
        for name in ("__doc__", "__name__"):
            object.__setattr__(self, name, getattr(self.rule, name, None))

    def __call__(
        self,
        network: Network,
        image: Float[ArrayLike, "h w 3"],
        label: Label,
        *,
        layer: str | None = None,
        score: Score = logit,
        **options: Any,
    ) -> Float[Array, "h2 w2"]:
        """The map of one class.

        Args:
            network: the network to explain.
            image: RGB in [0, 1].
            label: the class c that is explained, its ID or name.
            layer: the layer whose activations are A; the network's target layer if None.
            score: what of the logits is explained, such as `gcpatch.scores.margin`.
            options: of the rule.

        Raises:
            UserError: there is no such layer or class, or the image is no image.
        """
        trunk, head = network.split(layer)
        activations, known = trunk(checks.image(image)), checks.label(network, label)
        return self.logits_and_map(head, activations, known, score=score, **options)[1]

    def logits_and_map(
        self,
        head: Head,
        activations: Float[Array, "..."],  # A, which is checked here
        label: Int[Array, ""] | int,
        *,
        score: Score = logit,
        **options: Any,
    ) -> tuple[Float[Array, " classes"], Heat]:
        """The logits, and the map of one class, where A is known: head(A) are the logits.

        Raises:
            UserError: A is no map.
        """
        _check_map(activations.shape)

        def explained(activations):
            logits = head(activations)
            return score(logits, label), logits

        gradient, logits = jax.grad(explained, has_aux=True)(activations)
        return logits, self.rule(activations, gradient, **options)


@Cam
def grad_cam(activations: Maps, gradient: Maps) -> Heat:
    """Grad-CAM: ReLU(sum_k alpha_k A^k) with alpha_k = mean_ij g^k_ij.

    Selvaraju et al., "Grad-CAM", ICCV 2017; paper, eqs. 1-3.
    """
    return _weighted(activations, gradient.mean((0, 1)))


def map_shape(
    network: Network, image: tuple[int, int, int], layer: str | None = None
) -> tuple[int, int]:
    """Rows and columns of the map of an image of this shape at a layer.

    Raises:
        UserError: there is no such layer, or it gives no map.
    """
    trunk, _ = network.split(layer)
    shape = jax.eval_shape(trunk, jax.ShapeDtypeStruct(image, jnp.float32)).shape
    _check_map(shape)
    return shape[:2]


def _check_map(shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise UserError(
            f"the explained layer gives {list(shape)} and no map [h, w, k]: "
            "choose one before the pooling"
        )


def classify_and_explain(
    network: Network,
    image: Float[ArrayLike, "h w 3"],
    label: Int[ArrayLike, ""] | int | None = None,
    *,
    layer: str | None = None,
    explainer: Cam = grad_cam,
) -> tuple[Float[Array, " classes"], Float[Array, "h2 w2"]]:
    """The logits of one image, and the map of one class; of the top class if None."""
    activations = activations_of(network, image, layer=layer)
    return explain_activations(network, activations, label, layer=layer, explainer=explainer)


@partial(jax.jit, static_argnames="layer")
def activations_of(
    network: Network, image: Float[ArrayLike, "h w 3"], *, layer: str | None = None
) -> Float[Array, "h2 w2 k"]:
    """A layer's activations of one image, from which `explain_activations` goes on.

    Raises:
        UserError: there is no such layer, or it gives no map.
    """
    activations = network.split(layer)[0](jnp.asarray(image))
    _check_map(activations.shape)
    return activations


@partial(jax.jit, static_argnames=("layer", "explainer"))
def explain_activations(
    network: Network,
    activations: Float[Array, "h2 w2 k"],
    label: Int[ArrayLike, ""] | int | None = None,
    *,
    layer: str | None = None,
    explainer: Cam = grad_cam,
) -> tuple[Float[Array, " classes"], Float[Array, "h2 w2"]]:
    """As `classify_and_explain`, of an image whose activations are known."""
    _, head = network.split(layer)
    explained = head(activations).argmax() if label is None else jnp.asarray(label)
    return explainer.logits_and_map(head, activations, explained)


@Cam
def hirescam(activations: Maps, gradient: Maps) -> Heat:
    """HiResCAM: ReLU(sum_k g^k A^k), element by element.

    Draelos and Carin, "Use HiResCAM instead of Grad-CAM", 2020 (arXiv:2011.08891), where
    the map has no ReLU.
    """
    return jax.nn.relu((gradient * activations).sum(-1))


@Cam
def grad_cam_plus_plus(activations: Maps, gradient: Maps, *, epsilon: float = 1e-6) -> Heat:
    """Grad-CAM++: ReLU(sum_k w_k A^k) with w_k = sum_ij a^k_ij ReLU(g^k_ij).

        a^k_ij = (g^k_ij)^2 / (2 (g^k_ij)^2 + (sum_ab A^k_ab) (g^k_ij)^3 + epsilon)

    Chattopadhay et al., "Grad-CAM++", WACV 2018, eqs. 7 and 19. There the score is exp(y_c), which
    multiplies the whole map by exp(y_c): left out here, as in pytorch-grad-cam.

    Args:
        epsilon: pytorch-grad-cam's, which rules where gradients are below its root, 1e-3; with 0
            the map is the published equation.
    """
    positive = jax.nn.relu(gradient)  # where g <= 0 it counts for nothing
    total = activations.sum((0, 1))
    below = 2 * positive**2 + total * positive**3 + epsilon
    return _weighted(activations, (positive**3 / jnp.where(positive > 0, below, 1)).sum((0, 1)))


@Cam
def xgrad_cam(activations: Maps, gradient: Maps) -> Heat:
    """XGrad-CAM: ReLU(sum_k w_k A^k), w_k = sum_ij g^k_ij A^k_ij / (sum_ij A^k_ij + 1e-7).

    Fu et al., "Axiom-based Grad-CAM", BMVC 2020; the 1e-7, for channels without any
    activation, is pytorch-grad-cam's.
    """
    total = activations.sum((0, 1))
    return _weighted(activations, (gradient * activations / (total + 1e-7)).sum((0, 1)))


@Cam
def layercam(activations: Maps, gradient: Maps) -> Heat:
    """LayerCAM: ReLU(sum_k ReLU(g^k) A^k), element by element.

    Jiang et al., "LayerCAM", IEEE TIP 2021.
    """
    return jax.nn.relu((jax.nn.relu(gradient) * activations).sum(-1))


@Cam
def eigen_cam(activations: Maps, gradient: Maps) -> Heat:
    """Eigen-CAM: ReLU(X v), X the activations `[h w, k]` and v their first principal component.

    Muhammad and Yeasin, "Eigen-CAM", IJCNN 2020. As in pytorch-grad-cam each channel's mean is
    taken off X (the paper takes the singular vector of X itself). v is known but for its sign: here
    the entry of X v with the largest absolute value is positive.

    The gradient is that of the eigenvector, (l I - M)^+ dM v with M = X'X and l its largest
    eigenvalue. It grows as 1 / (l - l2), and is undefined (NaN) where the two largest eigenvalues
    are equal, in particular for activations that are constant over the map; and the map jumps where
    its largest and smallest entry are as large.

    No score is explained: class and gradient have no influence.
    """
    values = activations.reshape(-1, activations.shape[-1])
    values = values - values.mean(0)
    if values.shape[0] > values.shape[1]:
        projection = values @ _principal(values.T @ values)[1]
    else:  # the same from the smaller of the two matrices
        eigenvalue, vector = _principal(values @ values.T)
        projection = jnp.sqrt(eigenvalue) * vector
    projection *= jnp.sign(projection[jnp.abs(projection).argmax()])
    return jax.nn.relu(projection).reshape(activations.shape[:2])


METHODS: dict[str, Cam] = {
    "grad-cam": grad_cam,
    "hirescam": hirescam,
    "grad-cam++": grad_cam_plus_plus,
    "xgrad-cam": xgrad_cam,
    "layercam": layercam,
    "eigen-cam": eigen_cam,
}


def _weighted(activations, weights):
    """ReLU(sum_k w_k A^k)."""
    return jax.nn.relu(activations @ weights)


@jax.custom_jvp
def _principal(matrix):
    """The largest eigenvalue of a symmetric matrix, and its eigenvector."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values[-1], vectors[:, -1]


@_principal.defjvp
def _principal_jvp(primals, tangents):
    """(M - l I) dv - v dl = -dM v and v'dv = 0, which any order of derivative goes through.

    The derivative of `eigh` divides by the differences of all eigenvalues, not of the largest to
    the others alone, and of zeros there are many.
    """
    (matrix,), (change,) = primals, tangents
    value, vector = _principal(matrix)
    bordered = jnp.block(
        [
            [matrix - value * jnp.eye(len(matrix), dtype=matrix.dtype), -vector[:, None]],
            [vector[None], jnp.zeros((1, 1), matrix.dtype)],
        ]
    )
    solved = jnp.linalg.solve(bordered, jnp.append(-change @ vector, 0))
    return (value, vector), (solved[-1], solved[:-1])
