"""A network's parameters and the tensors that they are in torch, one rule per kind of leaf.

gcpatch's modules carry torchvision's attribute names, so that a key differs in its last word alone:

    kernel `[*window, in, out]` of any layer      weight `[out, in, *window]`, of a linear layer
                                                  flattened to `[out, in * window]`
    scale, bias, mean, var                        weight, bias, running_mean, running_var

The first linear layer of a VGG reads torch's channel-major `[C, 7, 7]`; gcpatch's kernel
`[7, 7, C, out]` is that rule with a window. `num_batches_tracked`, which counts training steps, is
left out on the way here and written as zero on the way back.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from flax import nnx

from gcpatch.networks import Network, parameters

TORCH_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


class Leaf(NamedTuple):
    """One parameter: its key and shape here (`[*window, in, out]`) and in torch."""

    key: str
    shape: tuple[int, ...]
    torch_key: str
    torch_shape: tuple[int, ...]


def leaves_of(network: Network) -> list[Leaf]:
    """Every parameter and statistic of a network."""
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
        leaves.append(Leaf(key, value.shape, f"{owner}.{TORCH_NAMES[word]}", torch_shape))
    return leaves


def counters(keys: Iterable[str]) -> list[str]:
    """The keys, beside these of torch's, of counters of training steps, which mean nothing here."""
    owners = [key.rpartition(".")[0] for key in keys if key.endswith(".running_mean")]
    return [f"{owner}.num_batches_tracked" for owner in owners]


def shapes_of(network: Network) -> dict[str, tuple[int, ...]]:
    """The shapes that torch's tensors have, by torch's keys; without the counters."""
    return {leaf.torch_key: leaf.torch_shape for leaf in leaves_of(network)}
