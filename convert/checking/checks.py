"""What gcpatch can check of a network that PyTorch has not: whether it agrees with itself."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from convert.checking.comparison import (
    LOSSES_ON,
    OBJECTIVES,
    PLAIN,
    Row,
    Rows,
    cast,
    losses_of,
    problem_of,
)
from gcpatch.attacks import engine
from gcpatch.attacks.blending import paste
from gcpatch.errors import UserError
from gcpatch.interpreters.adapt import Adapted
from gcpatch.networks import Network

# A finite difference over this share of a tile's pixels is right to about these shares.
STEPS = {"float32": 1e-2, "float64": 1e-6}
SMOOTH = {"float32": 0.1, "float64": 1e-4}


def check(
    network: Network,
    images: UInt8[np.ndarray, "n h w 3"],
    precision: str,
    on_task: Callable[[], Any] = lambda: None,
) -> list[Row]:
    """Compares a network with itself, as `comparison.compare` does with PyTorch.

    Logits are finite, head and trunk together are the network, what is recomputed below a patch
    gives the map of the whole image, and the cross-entropy's gradient by a patch is that of
    finite differences.

    Raises:
        UserError: the network cannot be computed in this precision.
    """
    rows = Rows(network.name, precision)
    if isinstance(network, Adapted) and precision == "float64":
        raise UserError(
            f"{network.name} is a program in float32: leave out --precision float64, or make it "
            "under jax.enable_x64"
        )
    network = cast(network, rows.kind)
    unit = [(image / 255).astype(rows.kind) for image in images]
    targets = []
    for image in unit:
        logits, parts = map(np.asarray, _logits(network, image))
        rows.add("logits are finite", np.isfinite(logits), np.ones_like(logits), 0.0)
        rows.add("logits of trunk and head", parts, logits, rows.tolerances.values)
        targets.append(int(np.argsort(-logits)[1]))
        on_task()
    for image, target in list(zip(unit, targets, strict=True))[:LOSSES_ON]:
        _patch(rows, network, image, target)
        on_task()
    return list(rows.rows.values())


@jax.jit
def _logits(network: Network, image: Any) -> tuple[Any, Any]:
    trunk, head = network.split()
    return network(image), head(trunk(image))


@jax.jit
def _map(network: Network, image: Any) -> Any:
    return network.split()[0](image)


def _patch(rows: Rows, network: Network, image: np.ndarray, target: int) -> None:
    """Adds what is computed of an image with a patch of random pixels."""
    problem, settings = problem_of(network, image, target, PLAIN)
    generator = np.random.default_rng(0)
    shape = (settings.size, settings.size, 3)
    tile = generator.uniform(0.25, 0.75, shape).astype(rows.kind)
    whole = _map(network, paste(image, jnp.asarray(tile), problem.corner))
    reach = engine.reach_of(network, image, corner=settings.corner, size=settings.size)
    memory = engine.remember(network, problem, reach).memory
    part = jax.jit(reach.program.run)(network, memory, jnp.asarray(tile))
    rows.add("map below a patch, incrementally", part, whole, rows.tolerances.values)
    chosen = np.eye(len(OBJECTIVES), dtype=rows.kind)[list(OBJECTIVES).index("classify")]
    _, gradient = losses_of(network, tile, problem, chosen)
    direction = np.sign(np.asarray(gradient))
    step = STEPS[rows.kind.name]
    ends = [
        float(losses_of(network, tile + way * step * direction, problem, chosen)[0].total)
        for way in (1, -1)
    ]
    slope = float(np.sum(np.asarray(gradient, np.float64) * direction))
    rows.add(
        "gradient beside finite differences",
        slope,
        (ends[0] - ends[1]) / (2 * step),
        SMOOTH[rows.kind.name],
    )
