"""What every network is: named stages in a row, which can be cut at any layer."""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from gcpatch.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MOST_PIXELS = 10_000  # of a side

INTERPOLATIONS = ("bilinear", "bicubic")

ArrayLike = Array | np.ndarray
Stage = Callable[[Array], Array]


@dataclass(frozen=True)
class Preprocessing:
    """What an image goes through before a network's first layer; torchvision's V1 by default.

    Attributes:
        mean, std: of each channel (RGB), in pixels of [0, 1].
        size: the sides of the square image that the network takes, in pixels.
        resize: of its shorter side, before the centre of `size` is cut out, in pixels.
        interpolation: one of `INTERPOLATIONS`, of that resizing.

    Raises:
        UserError: a value is out of range.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    size: int = 224
    resize: int = 256
    interpolation: str = "bilinear"

    def __post_init__(self):
        if not _three(self.mean, lambda value: 0 <= value <= 1):
            raise UserError(
                f"mean is {self.mean!r}; it must be three numbers from 0 to 1, R, G and B"
            )
        if not _three(self.std, lambda value: 0 < value < math.inf):
            raise UserError(f"std is {self.std!r}; it must be three numbers over 0, R, G and B")
        for name in ("size", "resize"):
            if not isinstance(value := getattr(self, name), numbers.Integral):
                raise UserError(f"{name} is {value!r}; it must be a whole number of pixels")
        if not 1 <= self.size <= self.resize <= MOST_PIXELS:
            raise UserError(
                f"size is {self.size} and resize {self.resize}; size must be at least 1, and "
                f"resize from the size to {MOST_PIXELS}"
            )
        if self.interpolation not in INTERPOLATIONS:
            choices = ", ".join(INTERPOLATIONS)
            raise UserError(
                f"there is no interpolation {self.interpolation!r}; choose one of {choices}"
            )


def channels(values: Any) -> Any:
    """Three numbers, also from an array or a list; all else as it is, for the check behind."""
    try:
        return tuple(map(float, np.asarray(values).tolist()))
    except (TypeError, ValueError):
        return values


def _three(values: Any, holds: Callable[[Any], bool]) -> bool:
    """Whether there is a number for each channel, and each is one that holds."""
    if not isinstance(values, Sequence) or len(values) != 3:
        return False
    return all(isinstance(value, numbers.Real) and holds(value) for value in values)


class Network(nnx.Module):
    """An image classifier: `network(image)` are the logits of one image (or of a batch).

    Images are `[..., height, width, 3]`, RGB in [0, 1]; the first stage normalises them, so that
    everything outside the network lives in pixels. Subclasses give `stages()`.

    Attributes:
        name: what it is called: its architecture's name or an alias.
        architecture: its name in the zoo.
        target_layer: the layer that Grad-CAM explains (paper, table 1).
        categories: the classes' names; a class's ID is its place in this tuple.
        preprocessing: what it takes images as; `mean` and `std` are the first stage.
    """

    def __init__(
        self,
        name: str,
        target_layer: str,
        categories: tuple[str, ...],
        preprocessing: Preprocessing = Preprocessing(),
    ):
        self.name = self.architecture = name
        self.target_layer = target_layer
        self.categories = categories
        self.preprocessing = preprocessing

    @property
    def mean(self) -> tuple[float, float, float]:
        """The mean of each channel."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """The standard deviation of each channel."""
        return self.preprocessing.std

    @property
    def options(self) -> dict[str, Any]:
        """What `create` must know beside the architecture's name, as JSON has it."""
        return {}

    def stages(self) -> Mapping[str, Stage]:
        """The layers by torchvision's names, in the order in which they run."""
        raise NotImplementedError

    def normalize(self, image: Float[ArrayLike, "*batch 3"]) -> Float[Array, "*batch 3"]:
        """Pixels in [0, 1] to the units that the first layer sees.

        Raises:
            UserError: the pixels are no floats.
        """
        image = jnp.asarray(image)
        if not jnp.issubdtype(image.dtype, jnp.floating):
            raise UserError(
                f"the image is {image.dtype}; give floats in [0, 1], such as pixels / 255"
            )
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
