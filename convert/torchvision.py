"""torchvision's weights to a gcpatch network and back, exactly, and torchvision's own networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convert import ConvertError
from convert.checking.twins import twin as twin
from convert.checking.twins import twin_of as twin_of
from convert.operators import torch, torchvision
from convert.reading import heads
from convert.reading.leaves import Leaf, counters, leaves_of
from convert.reading.state_dicts import listed
from convert.reading.tensors import oddity
from convert.settings import Settings
from convert.weights import Weights as Weights
from convert.weights import default_categories, first_line
from convert.weights import load_weights as load_weights
from gcpatch.files import atomic_write
from gcpatch.networks import NAMES, Network, Preprocessing, checkpoints, create, fill, parameters
from gcpatch.networks.manifests import preprocessing_of, read_manifest

VERSIONS = {"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)}
NOTHING, USUAL = Settings(), Preprocessing()


class Converted(NamedTuple):
    """A network of PyTorch's weights.

    Attributes:
        network: it.
        state_dict: what it was made of, by torchvision's names.
        source: where that comes from.
        notes: sentences on what was taken, and what that assumes.
    """

    network: Network
    state_dict: dict[str, Any]
    source: str
    notes: tuple[str, ...]


def convert(
    name: str | None,
    weights: str | Path = "IMAGENET1K_V1",
    settings: Settings = NOTHING,
    key: str | None = None,
) -> Converted:
    """The network of PyTorch's weights, with all that makes it the network it is.

    Args:
        name: a network's; an alias or a checkpoint's folder, whose settings are taken; None for
            the network that a file's tensors fit.
        weights: as of `load_weights`.
        settings: what the user says of it, which goes before all that is known.
        key: which of several state_dicts in a file.

    Raises:
        UserError: there is no such network, no such weights, or they and the settings do not fit.
    """
    manifest = manifest_of(name)
    loaded = load_weights(manifest["network"] if manifest else name, weights, key)
    known = preprocessing_of(manifest) if manifest else loaded.preprocessing
    categories = tuple(manifest["categories"]) if manifest else loaded.categories
    network = from_torch(loaded.state_dict, loaded.name, categories, known or USUAL)
    if manifest:
        network.name, network.target_layer = manifest["name"], manifest["target_layer"]
    settings.apply(network)
    assumed = () if known else settings.assumed(network.preprocessing)
    return Converted(network, loaded.state_dict, loaded.source, (*loaded.notes, *assumed))


def manifest_of(name: str | None) -> dict[str, Any] | None:
    """What is known of an alias or a checkpoint's folder; nothing of a network's own name."""
    if name is None or name in NAMES:
        return None
    folder = checkpoints.found(name)
    return read_manifest(folder) if folder else None


def from_torch(
    state_dict: Mapping[str, Any],
    name: str,
    categories: tuple[str, ...] | None = None,
    preprocessing: Preprocessing = USUAL,
) -> Network:
    """The network `name` with the weights of a torchvision state_dict, copied.

    The number of classes is the last layer's, and the widths of a VGG's hidden layers are those of
    the tensors. float64 stays where jax_enable_x64 is set, all else becomes float32.

    Raises:
        ConvertError: keys are missing, unknown, misshapen, or no finite floating-point
            tensors; there are fewer than two classes, or not as many as categories.
        UserError: there is no network of this name.
    """
    if name not in NAMES:
        create(name)  # raises, listing the names that there are
    count = heads.classes_of(state_dict, name)
    if categories is None and count is not None:
        categories = default_categories(name, count)
    if count is not None and categories is not None and count != len(categories):
        raise ConvertError(
            f"the head {heads.head_of(name)} has {count} outputs, and there are "
            f"{len(categories)} classes' names"
        )
    network = create(name, categories, preprocessing, heads.options_of(state_dict, name))
    leaves = leaves_of(network)
    if found := _problems(state_dict, leaves):
        raise ConvertError(f"these are not the weights of {name}; {'; '.join(found)}")
    return fill(network, {leaf.key: _inward(state_dict[leaf.torch_key], leaf) for leaf in leaves})


def to_torch(network: Network) -> dict[str, Any]:
    """The state_dict that torchvision's module of this network loads with `strict=True`."""
    values, leaves = parameters(network), leaves_of(network)
    tensors = {leaf.torch_key: _outward(values[leaf.key], leaf) for leaf in leaves}
    return tensors | {key: torch.zeros((), dtype=torch.int64) for key in counters(tensors)}


def _inward(tensor: Any, leaf: Leaf) -> np.ndarray:
    tensor = tensor.detach().cpu()
    value = (tensor if tensor.dtype == torch.float64 else tensor.float()).numpy()
    if leaf.key.endswith(".kernel"):
        *window, inputs, outputs = leaf.shape
        value = value.reshape(outputs, inputs, *window)
        value = value.transpose(*range(2, value.ndim), 1, 0)
    return np.array(value, order="C")  # a copy: JAX may keep this very memory


def _outward(value: Any, leaf: Leaf) -> Any:
    array = np.asarray(value)
    if leaf.key.endswith(".kernel"):
        array = array.transpose(-1, -2, *range(array.ndim - 2))
    return torch.from_numpy(np.array(array, order="C").reshape(leaf.torch_shape))


def _problems(given: Mapping[str, Any], leaves: list[Leaf]) -> list[str]:
    """What keeps a state_dict from covering these leaves exactly, in torch's names."""
    wanted = {leaf.torch_key: leaf.torch_shape for leaf in leaves}
    ignorable = counters(wanted)
    found = {key: given[key] for key in wanted if key in given}
    odd = [f"{key} ({why})" for key, value in found.items() if (why := oddity(value))]
    if odd:  # of which no shape means anything
        return [f"no plain floating-point tensor: {listed(odd, 2)}"]
    kinds = {
        "missing": [key for key in wanted if key not in given],
        "unknown": [str(key) for key in given if key not in wanted and key not in ignorable],
        "misshapen": [
            f"{key} {tuple(value.shape)} instead of {wanted[key]}"
            for key, value in found.items()
            if tuple(value.shape) != wanted[key]
        ],
    }
    if not any(kinds.values()):
        infinite = [key for key, value in found.items() if not bool(value.isfinite().all())]
        kinds = {"not finite": infinite}
    return [f"{kind}: {listed(keys)}" for kind, keys in kinds.items() if keys]


def save_torch(state_dict: Mapping[str, Any], path: str | Path) -> None:
    """Writes a state_dict with torch.save: all of the file or nothing.

    Raises:
        ConvertError: the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as draft, draft.open("wb") as file:
            torch.save(dict(state_dict), file)
    except (OSError, RuntimeError) as error:
        raise ConvertError(f"{path} cannot be written: {first_line(error)}") from error
