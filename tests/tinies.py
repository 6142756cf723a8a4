"""Tiny networks to run on, one of each family, and how they are made."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from gcpatch.networks import VGG, Network, ResNet, fill, parameters

VGG_OPTIONS = {"plan": (4, "M", 6, "M"), "normalized": False, "hidden": (8, 8)}
RESNET_OPTIONS = {"blocks": (1, 1, 1, 1), "planes": 4, "groups": 2, "width_per_group": 64}
FLAT = 6  # the side of `flat`'s images


def scatter(network: Network, seed: int = 0) -> Network:
    """The network with random weights large enough to tell images apart."""
    generator = np.random.default_rng(seed)
    values = {}
    for key, leaf in parameters(network).items():
        deviation = np.sqrt(2 / np.prod(leaf.shape[:-1]))
        values[key] = generator.normal(0, deviation, leaf.shape).astype(np.float32)
    return fill(network, values)


class Flat(Network):
    """A linear classifier, which compiles at once; its only feature map is the image."""

    def __init__(self, weights):
        super().__init__("flat", "features", ("a", "b", "c"))
        self.weights = nnx.Param(weights)

    def stages(self):
        return {
            "features": lambda x: x,
            "fc": lambda x: jnp.einsum("...hwk,hwkc->...c", x, self.weights[...]),
        }


def double(network: Network) -> Network:
    """The network in float64; under the fixture `x64`."""
    return fill(network, {k: np.asarray(v, np.float64) for k, v in parameters(network).items()})


def vgg() -> Network:
    """A VGG with two convolutions and three classes; `features.4` has half the image's side."""
    return scatter(VGG("tiny", ("a", "b", "c"), **VGG_OPTIONS, rngs=nnx.Rngs(0)), seed=3)


def resnet() -> Network:
    """A ResNeXt of four blocks and seven classes, its statistics over 0."""
    network = ResNet("tiny_resnet", tuple("abcdefg"), **RESNET_OPTIONS, rngs=nnx.Rngs(0))
    values = parameters(scatter(network, seed=4))
    return fill(
        network,
        {
            key: np.exp(np.asarray(value) / 4) if key.endswith((".var", ".scale")) else value
            for key, value in values.items()
        },
    )


def flat() -> Network:
    """A linear network: no step of an attack can go wrong by rounding."""
    weights = np.random.default_rng(5).normal(0, 0.3, (FLAT, FLAT, 3, 3))
    return Flat(jnp.asarray(weights, jnp.float32))
