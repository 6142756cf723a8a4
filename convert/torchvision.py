"""torchvision's weights to a gcpatch network and back, exactly, and torchvision's own networks.

gcpatch's modules carry torchvision's attribute names, so that a key differs in its last word alone
and one rule per kind of leaf is all there is:

    kernel `[*window, in, out]` of any layer      weight `[out, in, *window]`, of a linear layer
                                                  flattened to `[out, in * window]`
    scale, bias, mean, var                        weight, bias, running_mean, running_var

The first linear layer of a VGG reads torch's channel-major `[C, 7, 7]`; gcpatch's kernel
`[7, 7, C, out]` is that rule with a window. `num_batches_tracked`, which counts training steps, is
left out on the way here and written as zero on the way back.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from convert import ConvertError
from convert.operators import torch, torchvision
from convert.twins import twin as twin
from convert.twins import twin_of as twin_of
from convert.weights import Weights as Weights
from convert.weights import first_line
from convert.weights import load_weights as load_weights
from gcpatch.files import atomic_write
from gcpatch.networks import Network, create, fill, parameters

VERSIONS = {"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)}
TORCH_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
LISTED = 10


class _Leaf(NamedTuple):
    """One parameter: its key and shape here (`[*window, in, out]`) and in torch."""

    key: str
    shape: tuple[int, ...]
    torch_key: str
    torch_shape: tuple[int, ...]


def _leaves(network: Network) -> list[_Leaf]:
    modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(network)}
    leaves = []
    for key, value in parameters(network).items():
        owner, _, word = key.rpartition(".")
        torch_shape = value.shape
        if word == "kernel":
            *window, inputs, outputs = value.shape
            torch_shape = (outputs, inputs, *window)
            if not isinstance(modules[owner], nnx.Conv):
                torch_shape = (outputs, math.prod(torch_shape[1:]))
        leaves.append(_Leaf(key, value.shape, f"{owner}.{TORCH_NAMES[word]}", torch_shape))
    return leaves


def _counters(leaves: list[_Leaf]) -> list[str]:
    owners = [leaf.torch_key.rpartition(".")[0] for leaf in leaves if leaf.key.endswith(".mean")]
    return [f"{owner}.num_batches_tracked" for owner in owners]


def from_torch(
    state_dict: Mapping[str, Any], name: str, categories: tuple[str, ...] | None = None
) -> Network:
    """The network `name` with the weights of a torchvision state_dict, copied.

    float64 stays where jax_enable_x64 is set, all else becomes float32.

    Raises:
        ConvertError: keys are missing, unknown, misshapen, or no finite floating-point
            tensors.
        UserError: there is no network of this name.
    """
    network = create(name, categories)
    leaves = _leaves(network)
    if found := _problems(state_dict, leaves):
        raise ConvertError(f"these are not the weights of {name}; {'; '.join(found)}")
    return fill(network, {leaf.key: _inward(state_dict[leaf.torch_key], leaf) for leaf in leaves})


def to_torch(network: Network) -> dict[str, Any]:
    """The state_dict that torchvision's module of this network loads with `strict=True`."""
    values, leaves = parameters(network), _leaves(network)
    tensors = {leaf.torch_key: _outward(values[leaf.key], leaf) for leaf in leaves}
    return tensors | {key: torch.zeros((), dtype=torch.int64) for key in _counters(leaves)}


def _inward(tensor: Any, leaf: _Leaf) -> np.ndarray:
    tensor = tensor.detach().cpu()
    value = (tensor if tensor.dtype == torch.float64 else tensor.float()).numpy()
    if leaf.key.endswith(".kernel"):
        *window, inputs, outputs = leaf.shape
        value = value.reshape(outputs, inputs, *window)
        value = value.transpose(*range(2, value.ndim), 1, 0)
    return np.array(value, order="C")  # a copy: JAX may keep this very memory


def _outward(value: Any, leaf: _Leaf) -> Any:
    array = np.asarray(value)
    if leaf.key.endswith(".kernel"):
        array = array.transpose(-1, -2, *range(array.ndim - 2))
    return torch.from_numpy(np.array(array, order="C").reshape(leaf.torch_shape))


def _problems(given: Mapping[str, Any], leaves: list[_Leaf]) -> list[str]:
    """What keeps a state_dict from covering these leaves exactly, in torch's names."""
    wanted, ignorable = {leaf.torch_key: leaf.torch_shape for leaf in leaves}, _counters(leaves)
    found = {key: given[key] for key in wanted if key in given}
    tensors = {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}
    kinds = {
        "missing": [key for key in wanted if key not in given],
        "unknown": [str(key) for key in given if key not in wanted and key not in ignorable],
        "misshapen": [
            f"{key} {tuple(value.shape)} instead of {wanted[key]}"
            for key, value in tensors.items()
            if tuple(value.shape) != wanted[key]
        ],
        "no floating-point tensor": [
            key for key in found if not (key in tensors and tensors[key].is_floating_point())
        ],
        "not finite": [key for key, value in tensors.items() if not bool(value.isfinite().all())],
    }
    return [f"{kind}: {_listed(keys)}" for kind, keys in kinds.items() if keys]


def _listed(keys: list[str]) -> str:
    more = len(keys) - LISTED
    return ", ".join(keys[:LISTED]) + (f" and {more} more" if more > 0 else "")


def save_torch(network: Network, path: str | Path) -> None:
    """Writes `to_torch(network)` with torch.save: all of the file or nothing.

    Raises:
        ConvertError: the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as draft, draft.open("wb") as file:
            torch.save(to_torch(network), file)
    except (OSError, RuntimeError) as error:
        raise ConvertError(f"{path} cannot be written: {first_line(error)}") from error
