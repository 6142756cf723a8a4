"""Shapes are checked at every boundary of gcpatch while the tests run; tiny networks to run on."""

import ctypes
import gc
import os
import warnings
from contextlib import suppress
from pathlib import Path

# Most of the time goes into compiling small programs, which no test runs for long: the compiler's
# expensive passes are left out. They change no result; `make test-machines` runs with them.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)
# What was compiled once serves all workers, the processes that tests start, and the next run.
PROGRAMS = Path(__file__).parents[1] / ".pytest_cache" / "programs"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(PROGRAMS))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype.roar import BeartypeDecorHintPep585DeprecationWarning
from flax import nnx
from jaxtyping import install_import_hook

install_import_hook("gcpatch", "beartype.beartype")  # before anything imports gcpatch

with warnings.catch_warnings():  # beartype dislikes a base class of flax's nnx.List
    warnings.simplefilter("ignore", BeartypeDecorHintPep585DeprecationWarning)
    from gcpatch import attacks, occlusions
    from gcpatch.networks import VGG, Network, ResNet, fill, parameters
    from gcpatch.watching import memory


def scatter(network: Network, seed: int = 0) -> Network:
    """The network with random weights large enough to tell images apart."""
    generator = np.random.default_rng(seed)
    values = {}
    for key, leaf in parameters(network).items():
        deviation = np.sqrt(2 / np.prod(leaf.shape[:-1]))
        values[key] = generator.normal(0, deviation, leaf.shape).astype(np.float32)
    return fill(network, values)


MOST_MEMORY = 1.2e9  # bytes of a worker
KEEPERS = (attacks._one_step, attacks._reach, attacks._traced, occlusions._slide)
VGG_OPTIONS = {"plan": (4, "M", 6, "M"), "normalized": False, "hidden": 8}
RESNET_OPTIONS = {"blocks": (1, 1, 1, 1), "planes": 4, "groups": 2, "width_per_group": 64}
FLAT = 6  # the side of `flat`'s images


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


@pytest.fixture(autouse=True)
def forgetful():
    """Compiled programs take gigabytes together: once they take too much, all are dropped."""
    yield
    if memory() < MOST_MEMORY:
        return
    for function in KEEPERS:
        function.cache_clear()
    jax.clear_caches()
    gc.collect()
    with suppress(AttributeError):  # of glibc, which keeps what is freed
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def x64():
    """Switches jax's 64 bits on for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def tiny() -> Network:
    """A VGG with two convolutions and three classes; `features.4` has half the image's side."""
    return scatter(VGG("tiny", ("a", "b", "c"), **VGG_OPTIONS, rngs=nnx.Rngs(0)), seed=3)


@pytest.fixture(scope="session")
def tiny_resnet() -> Network:
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


@pytest.fixture(scope="session")
def flat() -> Network:
    """A linear network: no step of an attack can go wrong by rounding."""
    weights = np.random.default_rng(5).normal(0, 0.3, (FLAT, FLAT, 3, 3))
    return Flat(jnp.asarray(weights, jnp.float32))


@pytest.fixture
def tiny64(tiny, x64) -> Network:
    """The same in float64."""
    return double(tiny)
