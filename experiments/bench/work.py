"""How many multiply-adds a function takes, counted in its jaxpr."""

import math
from collections.abc import Callable
from typing import Any

import jax

from gcpatch.attacks import engine
from gcpatch.attacks.regions import Patch
from gcpatch.evaluation.bench import side_of
from gcpatch.interpreters.jaxpr import jaxprs_inside
from gcpatch.networks import Network, lowering


def multiply_adds(function: Callable, *arguments: Any) -> int:
    """Of a function's convolutions and products, forward."""
    with lowering.plain():
        return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        output = math.prod(equation.outvars[0].aval.shape)
        match equation.primitive.name:
            case "conv_general_dilated":  # each output sees a window of each input channel
                total += output * math.prod(equation.invars[1].aval.shape[:3])
            case "dot_general":
                (contracted, _), _ = equation.params["dimension_numbers"]
                shape = equation.invars[0].aval.shape
                total += output * math.prod(shape[axis] for axis in contracted)
        total += sum(map(_count, jaxprs_inside(equation)))
    return total


def trunk_work(network: Network, size: int) -> tuple[int, int]:
    """Multiply-adds of the trunk for one image: in full, and of what a corner patch reaches."""

    def trunk(network, image):
        return network.split()[0](image)

    side = side_of(network)
    image = jax.ShapeDtypeStruct((side, side, 3), "float32")
    tile = jax.ShapeDtypeStruct((size, size, 3), "float32")
    corner = Patch(size).corner(side, side)
    reach, places = engine.reach_of(network, image, corner=corner, size=size)
    memory = jax.eval_shape(reach.precompute, network, image, places)
    return multiply_adds(trunk, network, image), multiply_adds(reach.run, network, memory, tile)
