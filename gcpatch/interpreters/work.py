"""How many multiply-adds a program takes, counted in its jaxpr."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from gcpatch.interpreters.jaxpr import jaxprs_inside, shape_of
from gcpatch.networks import lowering


def multiply_adds(function: Callable, *arguments: Any) -> int:
    """Of a function's convolutions and products.

    Args:
        function: any function that JAX can trace.
        arguments: its arguments, or their shapes.
    """
    with lowering.plain():
        return count(jax.make_jaxpr(function)(*arguments).jaxpr)


def count(jaxpr: core.Jaxpr) -> int:
    """Of a program's convolutions and products, and of the programs in it, each run once."""
    total = 0
    for equation in jaxpr.eqns:
        output = math.prod(shape_of(equation.outvars[0]))
        match equation.primitive.name:
            case "conv_general_dilated":  # each output sees a window of each input channel
                total += output * math.prod(shape_of(equation.invars[1])[:3])
            case "dot_general":
                (contracted, _), _ = equation.params["dimension_numbers"]
                shape = shape_of(equation.invars[0])
                total += output * math.prod(shape[axis] for axis in contracted)
        total += sum(map(count, jaxprs_inside(equation)))
    return total
