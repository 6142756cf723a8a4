"""What of a program depends on the weights alone, computed once and not in every step.

The gradient of a convolution reads its kernel turned round, with inputs and outputs exchanged; XLA
does both anew in each step, which on a CPU is a tenth of VGG19's. `hoist` cuts a program in two:
`early`, of the weights, and `late`, of what `early` gives and of everything.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
from jax import lax

from gcpatch.interpreters.jaxpr import bind, evaluate, evaluate_equations, read, variables
from gcpatch.networks import lowering

KERNEL = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, lowering.DIMENSIONS).rhs_spec


class Hoisted(NamedTuple):
    """A program in two parts: `late(early(weights), weights, *others)`."""

    early: Any
    late: Any


def hoist(program: Callable, weights: Any, *others: Any) -> Hoisted:
    """Cuts a program in two.

    What would take more memory than it is computed from, such as a bias repeated over a map, stays
    in `late`.

    Args:
        program: a pure function of pytrees: the weights, and others.
        weights: a pytree of arrays, or of their shapes.
        others: likewise.
    """
    traced, shapes = jax.make_jaxpr(program, return_shape=True)(weights, *others)
    closed = jax.make_jaxpr(lambda *inputs: evaluate(traced, inputs, in_usual_order))(
        *jax.tree.leaves((weights, *others))
    )
    jaxpr, count = closed.jaxpr, len(jax.tree.leaves(weights))
    first, second, known = [], [], dict.fromkeys(jaxpr.invars[:count])
    for equation in jaxpr.eqns:
        inputs = list(variables(equation.invars))
        if inputs and known.keys() >= set(inputs) and _size(equation.outvars) <= _size(inputs):
            first.append(equation)
            known |= dict.fromkeys(equation.outvars)
        else:
            second.append(equation)
    wanted = {*variables(jaxpr.outvars)}.union(*(variables(e.invars) for e in second))
    kept = [v for v in known if v in wanted and v not in jaxpr.invars]
    structure: Any = jax.tree.structure(shapes)

    def early(weights):
        values = dict(zip(jaxpr.invars, jax.tree.leaves(weights), strict=False))
        return read(evaluate_equations(first, values), kept)

    def late(found, *inputs):
        values = dict(zip([*kept, *jaxpr.constvars], [*found, *closed.consts], strict=True))
        values |= dict(zip(jaxpr.invars, jax.tree.leaves(inputs), strict=True))
        values = evaluate_equations(second, values)
        return structure.unflatten(read(values, jaxpr.outvars))

    return Hoisted(early, late)


def in_usual_order(equation: Any, values: list[Any]) -> list[Any]:
    """`bind`, but a convolution's kernel is transposed by an equation of its own."""
    if equation.primitive is not lax.conv_general_dilated_p:
        return bind(equation, values)
    numbers = equation.params["dimension_numbers"]
    order = [numbers.rhs_spec[KERNEL.index(axis)] for axis in range(4)]
    params = equation.params | {"dimension_numbers": numbers._replace(rhs_spec=KERNEL)}
    return [equation.primitive.bind(values[0], lax.transpose(values[1], order), **params)]


def _size(variables: Iterable[Any]) -> int:
    return sum(variable.aval.size for variable in variables)
