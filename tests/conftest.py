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
    return fill(network, {
        key: generator.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape).astype(np.float32)
        for key, leaf in parameters(network).items()
    })  # fmt: skip


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
    return scatter(
        VGG("tiny", ("a", "b", "c"), plan=(4, "M", 6, "M"), normalized=False, hidden=8, rngs=nnx.Rngs(0)),
        seed=3,
    )  # fmt: skip
