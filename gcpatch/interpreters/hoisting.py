"""What of a program depends on the weights alone, computed once and not in every step.

The gradient of a convolution reads its kernel turned round, with inputs and outputs exchanged; XLA
does both anew in each step, which on a CPU is a tenth of VGG19's. `hoist` cuts a program in two:
`early`, of the weights, and `late`, of what `early` gives and of everything.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend import core

from gcpatch.networks import layers

KERNEL = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, layers.DIMENSIONS).rhs_spec


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
        read = list(_variables(equation.invars))
        if read and known.keys() >= set(read) and _size(equation.outvars) <= _size(read):
            first.append(equation)
            known |= dict.fromkeys(equation.outvars)
        else:
            second.append(equation)
    wanted = {*_variables(jaxpr.outvars)}.union(*(_variables(e.invars) for e in second))
    kept = [v for v in known if v in wanted and v not in jaxpr.invars]
    structure: Any = jax.tree.structure(shapes)

    def early(weights):
        values = dict(zip(jaxpr.invars, jax.tree.leaves(weights), strict=False))
        return _read(_run(first, values), kept)

    def late(found, *inputs):
        values = dict(zip([*kept, *jaxpr.constvars], [*found, *closed.consts], strict=True))
        values |= dict(zip(jaxpr.invars, jax.tree.leaves(inputs), strict=True))
        values = _run(second, values)
        return structure.unflatten(_read(values, jaxpr.outvars))

    return Hoisted(early, late)


def in_usual_order(equation: Any, values: list[Any]) -> list[Any]:
    """`bind`, but a convolution's kernel is transposed by an equation of its own."""
    if equation.primitive is not lax.conv_general_dilated_p:
        return bind(equation, values)
    numbers = equation.params["dimension_numbers"]
    order = [numbers.rhs_spec[KERNEL.index(axis)] for axis in range(4)]
    params = equation.params | {"dimension_numbers": numbers._replace(rhs_spec=KERNEL)}
    return [equation.primitive.bind(values[0], lax.transpose(values[1], order), **params)]


def bind(equation: Any, values: list[Any]) -> list[Any]:
    """An equation's outputs, as JAX computes them."""
    found = equation.primitive.get_bind_params(equation.params)
    functions, params = found if isinstance(found, tuple) else ((), found)  # JAX before 0.10
    outputs = equation.primitive.bind(*functions, *values, **params)
    return outputs if equation.primitive.multiple_results else [outputs]


def evaluate(closed: core.ClosedJaxpr, inputs: Iterable[Any], bind: Callable) -> list[Any]:
    """A program's outputs, those of each equation by `bind(equation, values)`."""
    jaxpr = closed.jaxpr
    names, inputs = [*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *inputs]
    return _read(_run(jaxpr.eqns, dict(zip(names, inputs, strict=True)), bind), jaxpr.outvars)


def _run(equations: Iterable[Any], values: dict, bind: Callable = bind) -> dict:
    """The values of all variables behind these equations."""
    for equation in equations:
        outputs = bind(equation, _read(values, equation.invars))
        values |= dict(zip(equation.outvars, outputs, strict=True))
    return values


def _read(values: dict, names: Iterable[Any]) -> list[Any]:
    return [name.val if isinstance(name, core.Literal) else values[name] for name in names]


def _variables(names: Iterable[Any]) -> Iterable[Any]:
    return (name for name in names if not isinstance(name, core.Literal))


def _size(variables: Iterable[Any]) -> int:
    return sum(variable.aval.size for variable in variables)
