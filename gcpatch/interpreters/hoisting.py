"""What of a program depends on the weights alone, computed once and not in every step.

The gradient of a convolution reads its kernel turned round, with inputs and outputs exchanged; XLA
does both anew in each step, which on a CPU is a tenth of VGG19's. `hoist` evaluates a program
partially, as JAX uses the words: what is `known` once the weights are, and what stays `unknown`
until the other inputs are there too. What the first hands to the second are its residuals.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend import core

from gcpatch.interpreters.jaxpr import (
    Equation,
    bind,
    evaluate,
    evaluate_equations,
    read,
    variables,
)
from gcpatch.networks import lowering

KERNEL = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, lowering.DIMENSIONS).rhs_spec


class Hoisted(NamedTuple):
    """A program in two parts: `unknown(known(weights), weights, *others)`.

    Attributes:
        known: from the weights to the residuals, a list of arrays.
        unknown: from the residuals, the weights and the other inputs to the program's outputs.
    """

    known: Any
    unknown: Any


def hoist(program: Callable, weights: Any, *others: Any) -> Hoisted:
    """Cuts a program in two.

    What would take more memory than it is computed from, such as a bias repeated over a map, stays
    in `unknown`.

    Args:
        program: a pure function of pytrees: the weights, and others.
        weights: a pytree of arrays, or of their shapes.
        others: likewise.
    """
    traced, shapes = jax.make_jaxpr(program, return_shape=True)(weights, *others)
    closed = jax.make_jaxpr(lambda *inputs: evaluate(traced, inputs, bind_in_usual_order))(
        *jax.tree.leaves((weights, *others))
    )
    structure: Any = jax.tree.structure(shapes)
    jaxpr, count = closed.jaxpr, len(jax.tree.leaves(weights))
    parts = _split(jaxpr, jaxpr.invars[:count])

    def known(weights):
        values = dict(zip(jaxpr.invars, jax.tree.leaves(weights), strict=False))
        return read(evaluate_equations(parts.known, values), parts.residuals)

    def unknown(residuals, *inputs):
        values = dict(
            zip([*parts.residuals, *jaxpr.constvars], [*residuals, *closed.consts], strict=True)
        )
        values |= dict(zip(jaxpr.invars, jax.tree.leaves(inputs), strict=True))
        values = evaluate_equations(parts.unknown, values)
        return structure.unflatten(read(values, jaxpr.outvars))

    return Hoisted(known, unknown)


def bind_in_usual_order(equation: Equation, values: list[Any]) -> list[Any]:
    """`bind`, but a convolution's kernel is transposed by an equation of its own."""
    if equation.primitive is not lax.conv_general_dilated_p:
        return bind(equation, values)
    numbers = equation.params["dimension_numbers"]
    order = [numbers.rhs_spec[KERNEL.index(axis)] for axis in range(4)]
    params = equation.params | {"dimension_numbers": numbers._replace(rhs_spec=KERNEL)}
    return [equation.primitive.bind(values[0], lax.transpose(values[1], order), **params)]


class _Parts(NamedTuple):
    """The equations of a jaxpr in two parts, and the variables that lead from one to the other."""

    known: list[Equation]
    unknown: list[Equation]
    residuals: list[core.Var]


def _split(jaxpr: core.Jaxpr, weights: list[core.Var]) -> _Parts:
    """Puts each equation into the part where it belongs."""
    known_equations, unknown_equations = [], []
    known = dict.fromkeys(weights)
    for equation in jaxpr.eqns:
        inputs = list(variables(equation.invars))
        grows = _size(equation.outvars) > _size(inputs)
        if inputs and known.keys() >= set(inputs) and not grows:
            known_equations.append(equation)
            known |= dict.fromkeys(equation.outvars)
        else:
            unknown_equations.append(equation)
    wanted = {*variables(jaxpr.outvars)}.union(*(variables(e.invars) for e in unknown_equations))
    residuals = [v for v in known if v in wanted and v not in jaxpr.invars]
    return _Parts(known_equations, unknown_equations, residuals)


def _size(variables: Iterable[Any]) -> int:
    return sum(variable.aval.size for variable in variables)
