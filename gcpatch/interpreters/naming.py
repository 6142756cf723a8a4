"""A model of Flax, Equinox or plain JAX as a function of its parameters, with named layers.

What each of its modules gives is named in the program, by JAX's `checkpoint_name` and by the path
of the module.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from gcpatch.errors import UserError

Values = Mapping[str, Array]  # a model's parameters by dotted path
Function = Callable[[Values, Array], Array]

SEAM = "trunk"  # the layer between two functions


class AdaptError(UserError):
    """A model that cannot be adapted; the message is one sentence that says why."""


def function_of(model: Any, params: Any) -> tuple[Function, Values]:
    """What a model computes, as a function of its parameters by dotted path, and these."""
    if isinstance(model, tuple):
        if len(model) != 2:
            raise AdaptError(f"there are {len(model)} functions; give two, (trunk, head)")
        trunk, head = model
        return _of_params(
            lambda *given: head(*given[:-1], checkpoint_name(trunk(*given), SEAM)), params
        )
    if isinstance(model, linen.Module):
        if params is None:
            raise AdaptError("a Linen module needs its variables: adapt(module, params=variables)")
        return _of_params(partial(_apply, model), params)
    if isinstance(model, nnx.Module):
        return _of_nnx(model)
    if not callable(model):
        raise AdaptError(f"a {type(model).__name__} cannot be called as a network")
    leaves, structure = jax.tree.flatten_with_path(model)
    if leaves and leaves[0][1] is model:  # a function
        return _of_params(model, params)
    return _of_pytree(leaves, structure)


def _of_params(function: Callable[..., Array], params: Any) -> tuple[Function, Values]:
    if params is None:
        return (lambda values, image: function(image)), {}
    leaves, structure = jax.tree.flatten_with_path(params)
    keys = [_dotted(path) for path, _ in leaves]

    def run(values: Values, image: Array) -> Array:
        return function(jax.tree.unflatten(structure, [values[key] for key in keys]), image)

    return run, {key: jnp.asarray(leaf) for key, (_, leaf) in zip(keys, leaves, strict=True)}


def _apply(module: linen.Module, variables: Any, image: Array) -> Array:
    def interceptor(call, args, kwargs, context):
        output = call(*args, **kwargs)
        own = context.method_name == "__call__"
        return _named(output, ".".join(context.module.path) if own else "")

    with linen.intercept_methods(interceptor):
        output: Any = module.apply(variables, image)
    return output


def _of_nnx(model: nnx.Module) -> tuple[Function, Values]:
    graph, state = nnx.split(model)
    flat = dict(nnx.to_flat_state(state))
    paths = {
        ".".join(map(str, path)): path
        for path, leaf in flat.items()
        if not isinstance(leaf, nnx.RngState)
    }

    def run(values: Values, image: Array) -> Array:
        before = {path: leaf.get_value() for path, leaf in flat.items()}
        before |= {path: values[key] for key, path in paths.items()}
        given = {path: leaf.replace(before[path]) for path, leaf in flat.items()}
        merged = nnx.merge(graph, nnx.from_flat_state(given))
        modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(merged)}
        with _naming(modules):
            output = merged(image)
        for path, leaf in nnx.to_flat_state(nnx.state(merged)):
            if leaf.get_value() is not before[path]:
                raise AdaptError(
                    f"calling the network changes its {'.'.join(map(str, path))}: put it into "
                    "evaluation mode first, model.eval()"
                )
        return output

    return run, {key: flat[path].get_value() for key, path in paths.items()}


def _of_pytree(leaves: Sequence[tuple[Any, Any]], structure: Any) -> tuple[Function, Values]:
    """An Equinox module, or any other pytree that can be called."""
    keys = [_dotted(path) for path, _ in leaves]
    values = {
        key: jnp.asarray(leaf)
        for key, (_, leaf) in zip(keys, leaves, strict=True)
        if isinstance(leaf, jax.Array)
    }

    def run(given: Values, image: Array) -> Array:
        filled = [given.get(key, leaf) for key, (_, leaf) in zip(keys, leaves, strict=True)]
        model = jax.tree.unflatten(structure, filled)
        with _naming(dict(_modules(model, ()))):
            return model(image)

    return run, values


def _modules(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """What can be called inside a module, by dotted path."""
    if isinstance(node, list | tuple):
        inside: Any = enumerate(node)
    elif isinstance(node, dict):
        inside = node.items()
    elif callable(node) and hasattr(node, "__dict__") and not isinstance(node, type):
        yield ".".join(path), node
        inside = vars(node).items()
    else:
        return
    for key, value in inside:
        yield from _modules(value, (*path, str(key)))


@contextmanager
def _naming(modules: Mapping[str, Any]) -> Iterator[None]:
    """Names what each of these modules gives when it is called."""
    names = {id(module): name for name, module in modules.items()}

    def naming(call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def named(self: Any, *args: Any, **kwargs: Any) -> Any:
            return _named(call(self, *args, **kwargs), names.get(id(self), ""))

        return named

    kinds = {type(module) for module in modules.values()}
    with ExitStack() as stack:
        for kind in kinds:
            own = naming(kind.__call__)
            stack.enter_context(mock.patch.object(kind, "__call__", own))
        yield


def _named(output: Any, name: str) -> Any:
    """The output, with a name in the program if it is one array."""
    return checkpoint_name(output, name) if name and isinstance(output, jax.Array) else output


def _dotted(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
