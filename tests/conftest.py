"""Shapes are checked at every boundary of gcpatch while the tests run; tiny networks to run on."""

import ctypes
import gc
import os
import warnings
from contextlib import suppress
from pathlib import Path

# Most of the time goes into compiling small programs, which no test runs for long: the compiler's
# expensive passes are left out. One setting of `make test-machines` has them.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)
# What was compiled once serves all workers, the processes that tests start, and the next run.
PROGRAMS = Path(__file__).parents[1] / ".pytest_cache" / "programs"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(PROGRAMS))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
import pytest
from beartype.roar import BeartypeDecorHintPep585DeprecationWarning
from jaxtyping import install_import_hook

install_import_hook("gcpatch", "beartype.beartype")  # before anything imports gcpatch

with warnings.catch_warnings():  # beartype dislikes a base class of flax's nnx.List
    warnings.simplefilter("ignore", BeartypeDecorHintPep585DeprecationWarning)
    import tinies

    from gcpatch.attacks import engine
    from gcpatch.explainers import occlusion
    from gcpatch.runs.progress import memory


MOST_MEMORY = 1.5e9  # bytes of a worker
KEEPERS = (engine._one_step, engine._near, engine._reach, engine._traced, occlusion._slide)


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


tiny = pytest.fixture(scope="session")(tinies.vgg)
tiny_resnet = pytest.fixture(scope="session")(tinies.resnet)
flat = pytest.fixture(scope="session")(tinies.flat)


@pytest.fixture
def tiny64(tiny, x64):
    """The tiny VGG in float64."""
    return tinies.double(tiny)
