"""How fast a step of the attack is on this machine: in full, incrementally, and in the near field.

A row counts image-steps: one step for one image. `convert.bench` measures PyTorch the same way.
"""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gcpatch.attacks import engine, slots
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.step import init_state, make_problem
from gcpatch.interpreters.incremental import Incremental
from gcpatch.networks import Network

LEAST_SECONDS = 0.5  # a repeat takes as many steps as fill this
CLEAR = Path("/proc/self/clear_refs")
VARIANTS = ("gcpatch-full", "gcpatch-incremental", "gcpatch-near")


class Row(NamedTuple):
    """One measurement: medians over the repeats.

    Attributes:
        spread: of the repeats, (slowest - fastest) / median.
        peak_memory_bytes: of gcpatch, what the compiled step needs with its arguments; of PyTorch
            on a GPU what it allocated at most; on a CPU what the process grew by.
        seconds_per_step: for the whole batch; in the near field with its part of exact looks.
        computed_inside: the share of the operations that see the patch which are computed inside a
            rectangle, and not on whole maps; None where all are computed in full.
    """

    network: str
    size: int
    batch: int
    variant: str
    image_steps_per_second: float
    seconds_per_step: float
    spread: float
    peak_memory_bytes: int
    compile_seconds: float
    computed_inside: float | None = None


class Timing(NamedTuple):
    """Seconds of the first call (compilation included), of a step in the median, and spread."""

    first: float
    step: float
    spread: float


def clock(step: Callable[[], Any], repeats: int, steps: int = 1) -> Timing:
    """Times a function that takes `steps` steps and returns when they are done."""
    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    start = time.perf_counter()
    step()
    count = max(1, round(LEAST_SECONDS / (time.perf_counter() - start)))
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(count):
            step()
        found.append((time.perf_counter() - start) / count / steps)
    middle = statistics.median(found)
    return Timing(first, middle, (max(found) - min(found)) / middle)


class Peak:
    """The most memory in use since it was made, beyond what was in use then.

    On accelerators, where JAX's count cannot be set back, it is that of the whole process.
    """

    def __init__(self) -> None:
        self.before = 0
        if jax.default_backend() == "cpu" and CLEAR.exists():
            CLEAR.write_text("5")  # Linux: the peak starts anew
            self.before = _status("VmRSS")

    def peak(self) -> int:
        """In bytes; 0 where the system does not say."""
        if jax.default_backend() != "cpu":
            return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
        return max(_status("VmHWM") - self.before, 0)


def _status(field: str) -> int:
    path = Path("/proc/self/status")
    found = re.search(rf"{field}:\s+(\d+) kB", path.read_text()) if path.exists() else None
    return int(found[1]) * 1024 if found else 0


def side_of(network: Network) -> int:
    """The side of the images that a network is measured on, in pixels."""
    return network.preprocessing.size


def images_for(batch: int, side: int) -> Float[np.ndarray, "n side side 3"]:
    """Random pixels: what a step costs does not depend on them."""
    return np.random.default_rng(0).random((batch, side, side, 3), np.float32)


def measure(
    network: Network,
    size: int,
    batch: int,
    variant: str,
    repeats: int = 5,
    precision: str = "highest",
) -> Row:
    """Times the attack `hide` on a batch, with a patch in the top right corner.

    Args:
        network: whose weights do not matter.
        size: the patch's side in pixels.
        batch: images at a time.
        variant: one of `VARIANTS`.
        repeats: how many times to measure; the median counts.
        precision: as `jax.default_matmul_precision` names it.
    """
    side = side_of(network)
    how = Attack(objective="hide", reach="near" if variant == "gcpatch-near" else "exact")
    place = Patch(size).place(side, side)
    count = None if jax.default_backend() == "cpu" else slots.CHUNK
    reach: engine.Reach | None = None
    problems: Any = []
    for index, image in enumerate(images_for(batch, side)):
        target = index % len(network.categories)
        problem = make_problem(
            network, image, target, how, placement=place, key=jax.random.key(index)
        )
        if variant != "gcpatch-full":
            reach = engine.choose_reach(network, image, corner=place.corner, size=size, attack=how)
            problem = engine.prepare(network, problem, reach)
        problems.append(problem)
    problems = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    states = jax.vmap(lambda problem: init_state(network, problem, place.shape, how))(problems)
    start = time.perf_counter()
    weights: Any = (network,)
    evaluation = reach and reach.placed.program
    with jax.default_matmul_precision(precision):
        if count is None:
            known, unknown = engine.one_step(network, states, problems, how, evaluation)
            weights = known(network), network
            program = unknown.lower(*weights, states, problems, how).compile()
        else:
            program = engine.steps.lower(
                network, states, problems, how, count, evaluation
            ).compile()
    compile_seconds = time.perf_counter() - start
    memory: Any = program.memory_analysis()
    state = [states]

    def step() -> None:
        state[0], losses = program(*weights, state[0], problems, how)
        jax.block_until_ready(losses)

    def look() -> None:  # on a CPU at one image after the other
        assert reach is not None
        some = state[0], problems
        if count is None:
            some = jax.tree.map(lambda leaf: leaf[:1], some)
        with jax.default_matmul_precision(precision):
            jax.block_until_ready(engine.look(network, *some, how, reach))

    timing = clock(step, repeats, count or 1)
    seconds = timing.step
    if reach and reach.every:
        looked, looks = clock(look, repeats), batch if count is None else 1
        seconds += looks * looked.step / reach.every
        compile_seconds += looked.first
    return Row(
        network.name,
        size,
        batch,
        variant,
        batch / seconds,
        seconds,
        timing.spread,
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        compile_seconds,
        None if evaluation is None else inside_of(evaluation),
    )


def inside_of(reach: Incremental) -> float:
    """The share of the operations that see a patch which are computed inside a rectangle."""
    found = [operation.inside for operation in reach.operations if operation is not None]
    return sum(found) / len(found)


def product_peak(side: int = 2048) -> float:
    """Multiply-adds a second of a product of square float32 matrices: what can be hoped for."""
    side = side if jax.default_backend() == "cpu" else 4 * side
    matrix = jnp.ones((side, side))
    multiply = jax.jit(lambda a: a @ a)
    return side**3 / clock(lambda: jax.block_until_ready(multiply(matrix)), 5).step


def machine() -> dict[str, Any]:
    """What the rows were measured on."""
    device = jax.devices()[0]
    return {
        "device": f"{device.platform}: {device.device_kind}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "multiply_adds_per_second": product_peak(),
    }
