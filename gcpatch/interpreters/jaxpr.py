"""Programs as JAX writes them down: traced, read, and evaluated equation by equation.

A jaxpr is a list of equations. Each applies a primitive to variables and literals and gives new
variables. What the interpreters beside this file share is here: to trace a function, to evaluate
its equations as JAX does or in another way, and to tell what is a ReLU.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, Float

from gcpatch.networks import lowering

Equation: TypeAlias = core.JaxprEqn
Atom: TypeAlias = core.Var | core.Literal
Bind = Callable[[Equation, list[Any]], list[Any]]  # an equation's outputs, from its inputs' values


def trace(
    function: Callable[[Any, Float[Array, "1 h w c"]], Array],
    params: Any,
    *,
    shape: tuple[int, ...],
    dtype: Any = jnp.float32,
) -> core.ClosedJaxpr:
    """The jaxpr of a function of parameters and a batch of one image, a layer a primitive.

    What the function calls through `jax.jit`, as most of `jax.nn` is, is written out in its place.

    Args:
        function: any pure function.
        params: a pytree of parameters, or of their shapes.
        shape: of the image, (height, width, channel).
        dtype: of the image.
    """
    image = jax.ShapeDtypeStruct((1, *shape), dtype)
    with lowering.plain():
        return written_out(function, params, image)


def written_out(function: Callable[..., Any], *arguments: Any) -> core.ClosedJaxpr:
    """The jaxpr of a function of such arguments, with what it calls through `jax.jit` in place."""
    closed = jax.make_jaxpr(function)(*arguments)
    inputs = jax.tree.leaves(arguments)
    return jax.make_jaxpr(lambda *inputs: evaluate(closed, inputs, _bind_written_out))(*inputs)


def _bind_written_out(equation: Equation, values: list[Any]) -> list[Any]:
    """`bind`, and the equations of a `jax.jit` in its place."""
    if equation.primitive.name not in ("jit", "pjit"):
        return bind(equation, values)
    return evaluate(equation.params["jaxpr"], values, _bind_written_out)


def bind(equation: Equation, values: list[Any]) -> list[Any]:
    """An equation's outputs, as JAX computes them."""
    params = equation.primitive.get_bind_params(equation.params)
    outputs = equation.primitive.bind(*values, **params)
    return outputs if equation.primitive.multiple_results else [outputs]


def evaluate(closed: core.ClosedJaxpr, inputs: Iterable[Any], bind: Bind = bind) -> list[Any]:
    """A program's outputs, with `bind` for each of its equations in turn."""
    jaxpr = closed.jaxpr
    names, inputs = [*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *inputs]
    values = dict(zip(names, inputs, strict=True))
    return read(evaluate_equations(jaxpr.eqns, values, bind), jaxpr.outvars)


def evaluate_equations(
    equations: Iterable[Equation], values: dict[core.Var, Any], bind: Bind = bind
) -> dict[core.Var, Any]:
    """The values of all variables behind these equations; `values` holds those before them."""
    values = dict(values)
    for equation in equations:
        outputs = bind(equation, read(values, equation.invars))
        values |= dict(zip(equation.outvars, outputs, strict=True))
    return values


def read(values: dict[core.Var, Any], atoms: Iterable[Atom]) -> list[Any]:
    """The values of variables, and those that literals carry."""
    return [atom.val if isinstance(atom, core.Literal) else values[atom] for atom in atoms]


def variables(atoms: Iterable[Atom]) -> Iterator[core.Var]:
    """Those of an equation's inputs that are no literals."""
    return (atom for atom in atoms if not isinstance(atom, core.Literal))


def shape_of(atom: Atom) -> tuple[int, ...]:
    """The shape of an equation's input or output."""
    kind: Any = atom.aval
    return kind.shape


def jaxprs_inside(equation: Equation) -> list[core.Jaxpr]:
    """The programs that an equation carries: of a `jit`, a loop, a function with a derivative."""
    leaves: list[Any] = jax.tree.leaves(equation.params, is_leaf=_is_jaxpr)
    return [getattr(leaf, "jaxpr", leaf) for leaf in leaves if _is_jaxpr(leaf)]


def is_relu(equation: Equation) -> bool:
    """Whether an equation is a call of `jax.nn.relu`."""
    if equation.primitive.name != "custom_jvp_call":
        return False
    inner = equation.params["call_jaxpr"].jaxpr.eqns
    return [part.params.get("name") for part in inner] == ["relu"]


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)
