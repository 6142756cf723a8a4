"""A network's parameters as a flat dictionary, and a network from such a dictionary."""

from collections.abc import Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from gcpatch.errors import UserError
from gcpatch.networks.network import Network

# Where an imported network keeps its parameters, whose names may be those of its own methods.
IMPORTED = "imported"
AnyNetwork = TypeVar("AnyNetwork", bound=Network)


class ParameterError(UserError):
    """Parameters that do not fit a network; the message lists every one that does not."""


def parameters(network: Network) -> dict[str, Array | jax.ShapeDtypeStruct]:
    """Every parameter and stored statistic by dotted path, such as `features.0.kernel`.

    Of an abstract network the values are `jax.ShapeDtypeStruct`.
    """
    return {_dotted(path): leaf.get_value() for path, leaf in _flat(network)}


def fill(network: AnyNetwork, values: Mapping[str, Array | np.ndarray]) -> AnyNetwork:
    """A network of the same structure with these parameters.

    Raises:
        ParameterError: a parameter is missing, unknown or of another shape; all are listed.
    """
    wanted = parameters(network)
    problems = [
        *(f"missing {key} {wanted[key].shape}" for key in wanted if key not in values),
        *(f"extra {key} {tuple(values[key].shape)}" for key in values if key not in wanted),
        *(
            f"{key} has shape {tuple(values[key].shape)} instead of {wanted[key].shape}"
            for key in wanted
            if key in values and tuple(values[key].shape) != wanted[key].shape
        ),
    ]
    if problems:
        raise ParameterError(f"these are not the weights of {network.name}: {'; '.join(problems)}")
    graph, _ = nnx.split(network)
    filled = [
        (path, leaf.replace(jnp.asarray(values[_dotted(path)]))) for path, leaf in _flat(network)
    ]
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _flat(network: Network):
    return nnx.to_flat_state(nnx.state(network))


def _dotted(path: tuple) -> str:
    return ".".join(map(str, path[1:] if path[0] == IMPORTED else path))
