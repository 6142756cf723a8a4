"""Shapes are checked at every boundary of gcpatch while the tests run; tiny networks to run on."""

import warnings

import jax
import numpy as np
import pytest
from beartype.roar import BeartypeDecorHintPep585DeprecationWarning
from flax import nnx
from jaxtyping import install_import_hook

install_import_hook("gcpatch", "beartype.beartype")  # before anything imports gcpatch

with warnings.catch_warnings():  # beartype dislikes a base class of flax's nnx.List
    warnings.simplefilter("ignore", BeartypeDecorHintPep585DeprecationWarning)
    from gcpatch.networks import VGG, Network, fill, parameters


def scatter(network: Network, seed: int = 0) -> Network:
    """The network with random weights large enough to tell images apart."""
    generator = np.random.default_rng(seed)
    values = {}
    for key, leaf in parameters(network).items():
        deviation = np.sqrt(2 / np.prod(leaf.shape[:-1]))
        values[key] = generator.normal(0, deviation, leaf.shape).astype(np.float32)
    return fill(network, values)


def double(network: Network) -> Network:
    """The network in float64; under the fixture `x64`."""
    return fill(network, {k: np.asarray(v, np.float64) for k, v in parameters(network).items()})


@pytest.fixture
def x64():
    """Switches jax's 64 bits on for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def tiny() -> Network:
    """A VGG with two convolutions and three classes; `features.4` has half the image's side."""
    classes, plan = ("a", "b", "c"), (4, "M", 6, "M")
    network = VGG("tiny", classes, plan=plan, normalized=False, hidden=8, rngs=nnx.Rngs(0))
    return scatter(network, seed=3)


@pytest.fixture
def tiny64(tiny, x64) -> Network:
    """The same in float64."""
    return double(tiny)
