"""The networks by name: torchvision's VGGs and bottleneck ResNets, and small ones for scenes."""

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from gcpatch.data import scenes
from gcpatch.errors import UserError
from gcpatch.networks import graph
from gcpatch.networks.network import Network, Preprocessing
from gcpatch.networks.parameters import fill, parameters
from gcpatch.networks.resnet import ResNet
from gcpatch.networks.vgg import POOL, VGG


def _plan(*counts: int) -> tuple[int | str, ...]:
    """A VGG's convolutions: `counts[i]` of the i-th width, and a pooling."""
    plan: list[int | str] = []
    for width, count in zip((64, 128, 256, 512, 512), counts, strict=True):
        plan += [width] * count + [POOL]
    return tuple(plan)


VGG_PLANS = {
    depth: _plan(*counts)
    for depth, counts in {
        11: (1, 1, 2, 2, 2),
        13: (2, 2, 2, 2, 2),
        16: (2, 2, 3, 3, 3),
        19: (2, 2, 4, 4, 4),
    }.items()
}
MINI_PLAN = (8, POOL, 16, POOL, 32, POOL, 64, POOL, 96, 96, POOL)

PAPER = ("vgg19", "vgg19_bn", "wide_resnet101_2", "resnext101_32x8d")
MINIS = ("mini_vgg", "mini_vgg_bn", "mini_wide_resnet", "mini_resnext")
THIN = ("thin_resnet26", "thin_resnet50", "thin_resnet101")  # deep, and trained in minutes
SMALL = MINIS + THIN  # of scenes; torchvision has none of them
IMAGENET_CLASSES = 1000

CONSTRUCTORS: dict[str, Callable[..., Network]] = {
    **{
        f"vgg{depth}": partial(VGG, plan=plan, normalized=False)
        for depth, plan in VGG_PLANS.items()
    },
    **{
        f"vgg{depth}_bn": partial(VGG, plan=plan, normalized=True)
        for depth, plan in VGG_PLANS.items()
    },
    "resnet50": partial(ResNet, blocks=(3, 4, 6, 3)),
    "resnet101": partial(ResNet, blocks=(3, 4, 23, 3)),
    "resnet152": partial(ResNet, blocks=(3, 8, 36, 3)),
    "resnext50_32x4d": partial(ResNet, blocks=(3, 4, 6, 3), groups=32, width_per_group=4),
    "resnext101_32x8d": partial(ResNet, blocks=(3, 4, 23, 3), groups=32, width_per_group=8),
    "resnext101_64x4d": partial(ResNet, blocks=(3, 4, 23, 3), groups=64, width_per_group=4),
    "wide_resnet50_2": partial(ResNet, blocks=(3, 4, 6, 3), width_per_group=128),
    "wide_resnet101_2": partial(ResNet, blocks=(3, 4, 23, 3), width_per_group=128),
    "mini_vgg": partial(VGG, plan=MINI_PLAN, normalized=False, hidden=(64, 64)),
    "mini_vgg_bn": partial(VGG, plan=MINI_PLAN, normalized=True, hidden=(64, 64)),
    "mini_wide_resnet": partial(ResNet, blocks=(1, 1, 1, 1), planes=8, width_per_group=128),
    "mini_resnext": partial(ResNet, blocks=(1, 1, 1, 1), planes=8, groups=4, width_per_group=32),
    "thin_resnet26": partial(ResNet, blocks=(2, 2, 2, 2), planes=16),
    "thin_resnet50": partial(ResNet, blocks=(3, 4, 6, 3), planes=16),
    "thin_resnet101": partial(ResNet, blocks=(3, 4, 23, 3), planes=16),
}
NAMES = tuple(CONSTRUCTORS)


def create(
    name: str,
    categories: tuple[str, ...] | None = None,
    preprocessing: Preprocessing = Preprocessing(),  # noqa: B008  (frozen)
    options: Mapping[str, Any] | None = None,
) -> Network:
    """A network without weights: its parameters are shapes, for `fill` to replace.

    Args:
        name: one of `NAMES`, or that of an imported graph, which `options` hold.
        categories: the classes' names; the scenes' for the small ones, else 1,000 numbered classes.
        preprocessing: what it takes images as.
        options: what differs from the network of this name, as `Network.options` has it.

    Raises:
        UserError: there is no network of this name, or it has no such options.
    """
    if name == graph.ARCHITECTURE and options and categories:
        return graph.create(options["graph"], name, categories, preprocessing)
    if name not in CONSTRUCTORS:
        raise UserError(f"there is no network {name!r}; choose one of {', '.join(NAMES)}")
    if categories is None:
        numbered = tuple(f"class {i}" for i in range(IMAGENET_CLASSES))
        categories = scenes.CATEGORIES if name in SMALL else numbered
    known = partial(CONSTRUCTORS[name], name, tuple(categories), preprocessing=preprocessing)
    return nnx.eval_shape(lambda: known(**_checked(options or {}), rngs=_OneKey()))


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a constructor takes them, from what a manifest may hold."""
    for key, value in options.items():
        if key != "hidden" or len(value) != 2 or not all(isinstance(one, int) for one in value):
            raise UserError(f"a network has no option {key!r} of {value!r}")
    return {key: tuple(value) for key, value in options.items()}


class _OneKey(nnx.Rngs):
    """The same key for every weight: only shapes are wanted, and counting keys takes seconds."""

    def __init__(self):
        pass

    def params(self):
        return jax.random.key(0)


def random(name: str, seed: int = 0, dtype: str = "float32") -> Network:
    """A network with seeded random weights, and random statistics in every batch normalisation.

    Kernels are He-normal; scales, biases, means and variances vary around their usual values, so
    that a mistake in any of them shows in the outputs. The same (name, seed) gives the same
    weights on every machine.
    """
    network = create(name)
    leaves = parameters(network).items()
    return fill(
        network, {key: _random_leaf(key, leaf.shape, seed).astype(dtype) for key, leaf in leaves}
    )


def _random_leaf(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator = np.random.default_rng((seed, zlib.crc32(key.encode())))
    normal = generator.standard_normal(shape, np.float32)
    match key.rsplit(".", 1)[1]:
        case "kernel":
            return normal * np.float32(np.sqrt(2 / np.prod(shape[:-1])))
        case "scale":  # the block's last one is small, which keeps deep residual sums in range
            return (0.2 if ".bn3." in key else 1.0) * (1 + 0.1 * normal)
        case "var":
            return np.exp(0.2 * normal)
        case _:  # bias, mean
            return 0.1 * normal
