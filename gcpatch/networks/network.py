"""What every network is: named stages in a row, which can be cut at any layer."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from gcpatch.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

ArrayLike = Array | np.ndarray
Stage = Callable[[Array], Array]


class Network(nnx.Module):
    """An image classifier: `network(image)` are the logits of one image (or of a batch).

    Images are `[..., height, width, 3]`, RGB in [0, 1]; the first stage normalises them, so that
    everything outside the network lives in pixels. Subclasses give `stages()`.

    Attributes:
        name: the network's name in the zoo.
        target_layer: the layer that Grad-CAM explains (paper, table 1).
        categories: the classes' names; a class's ID is its place in this tuple.
        mean, std: the normalisation of each channel.
    """

    def __init__(self, name: str, target_layer: str, categories: tuple[str, ...]):
        self.name = name
        self.target_layer = target_layer
        self.categories = categories
        self.mean, self.std = IMAGENET_MEAN, IMAGENET_STD

    def stages(self) -> Mapping[str, Stage]:
        """The layers by torchvision's names, in the order in which they run."""
        raise NotImplementedError

    def normalize(self, image: Float[ArrayLike, "*batch 3"]) -> Float[Array, "*batch 3"]:
        """Pixels in [0, 1] to the units that the first layer sees."""
        image = jnp.asarray(image)
        return (image - jnp.asarray(self.mean, image.dtype)) / jnp.asarray(self.std, image.dtype)

    def denormalize(self, values: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
        """The inverse of `normalize`."""
        return values * jnp.asarray(self.std, values.dtype) + jnp.asarray(self.mean, values.dtype)

    def __call__(self, image: Float[ArrayLike, "*batch h w 3"]) -> Float[Array, "*batch classes"]:
        return _run({"normalize": self.normalize, **self.stages()}, jnp.asarray(image))

    def activations(self, image: Float[ArrayLike, "*batch h w 3"]) -> dict[str, Array]:
        """The output of every stage, by name, in the order in which they run."""
        outputs, value = {}, self.normalize(jnp.asarray(image))
        for name, stage in self.stages().items():
            outputs[name] = value = stage(value)
        return outputs

    def split(self, layer: str | None = None) -> tuple[Stage, Stage]:
        """Cuts the network behind `layer`: `head(trunk(image)) == network(image)`.

        Args:
            layer: a stage's name, or a prefix that stands for the last stage under it (`layer4`
                is the output of its last block); the target layer if None.

        Raises:
            UserError: there is no such layer; the message lists those that there are.
        """
        stages = {"normalize": self.normalize, **self.stages()}
        names = list(stages)
        cut = 1 + names.index(self.resolve(layer))
        trunk = {name: stages[name] for name in names[:cut]}
        head = {name: stages[name] for name in names[cut:]}
        return (lambda image: _run(trunk, image)), (lambda value: _run(head, value))

    def resolve(self, layer: str | None = None) -> str:
        """The full name of the stage that `layer` stands for; see `split`."""
        layer = self.target_layer if layer is None else layer
        names = list(self.stages())
        matches = [name for name in names if name == layer or name.startswith(f"{layer}.")]
        if not matches:
            raise UserError(f"{self.name} has no layer {layer!r}; it has {', '.join(names)}")
        return matches[-1]


def _run(stages: Mapping[str, Stage], value: Array) -> Array:
    for stage in stages.values():
        value = stage(value)
    return value
