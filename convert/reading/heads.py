"""The last linear layers of a network that somebody has trained for other classes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from convert import ConvertError
from convert.reading.tensors import oddity
from gcpatch.networks.zoo import CONSTRUCTORS, VGG

WHOLE = "give the whole network instead, `gcpatch convert module:factory`"
VGG_LINEAR = ("classifier.0", "classifier.3", "classifier.6")


class Head(NamedTuple):
    """A state_dict with torchvision's names for the head's layers, and what that assumes."""

    state_dict: dict[str, Any]
    note: str | None


def is_vgg(name: str) -> bool:
    """Whether a network of the zoo is a VGG; it is a ResNet otherwise."""
    return getattr(CONSTRUCTORS[name], "func", None) is VGG


def head_of(name: str) -> str:
    """torchvision's name of a network's last linear layer."""
    return VGG_LINEAR[-1] if is_vgg(name) else "fc"


def settle(state_dict: Mapping[str, Any], name: str) -> Head:
    """Gives the one linear layer of a new head the name that torchvision has for it.

    Activations are in no state_dict, so that only a head of one linear layer is known: what was
    beside it is dropout, or nothing could be said of it.

    Raises:
        ConvertError: the head has several linear layers, and what lies between them is not known.
    """
    if is_vgg(name):
        _check_places(_linear(state_dict, "classifier"))
    return settle_layer(state_dict, head_of(name))


def settle_layer(state_dict: Mapping[str, Any], last: str) -> Head:
    """The same, of any network whose last linear layer is called so; see `settle`."""
    if f"{last}.weight" in state_dict:
        return Head(dict(state_dict), None)
    inside = {key for key in state_dict if key.startswith(f"{last}.")}
    linear = _linear(state_dict, last)
    if len(linear) > 1:
        raise ConvertError(
            f"the head {last} has {len(linear)} linear layers ({', '.join(linear)}), and what lies "
            f"between them is not in the file: {WHOLE}"
        )
    if not linear or inside - {f"{linear[0]}.weight", f"{linear[0]}.bias"}:
        return Head(dict(state_dict), None)  # from_torch says what is amiss
    renamed = {
        last + key.removeprefix(linear[0]) if key in inside else key: value
        for key, value in state_dict.items()
    }
    return Head(renamed, f"assumes that {linear[0]} is all that acts in the head {last}")


def _linear(state_dict: Mapping[str, Any], owner: str) -> list[str]:
    """The linear layers in a module: what has a weight `[out, in]`."""
    return [
        key.removesuffix(".weight")
        for key, value in state_dict.items()
        if key.startswith(f"{owner}.") and key.endswith(".weight") and value.ndim == 2
    ]


def _check_places(linear: Sequence[str]) -> None:
    strange = [
        one for one in linear if not (one + ".").startswith(tuple(f"{k}." for k in VGG_LINEAR))
    ]
    if strange:
        raise ConvertError(
            f"the classifier has linear layers at {', '.join(linear)} and not at "
            f"{', '.join(VGG_LINEAR)}, and what lies between them is not in the file: {WHOLE}"
        )


def classes_of(state_dict: Mapping[str, Any], name: str) -> int | None:
    """How many classes the last layer tells apart; None where there is no such layer.

    Raises:
        ConvertError: it has none, or one.
    """
    return classes_of_layer(state_dict, head_of(name))


def classes_of_layer(state_dict: Mapping[str, Any], last: str) -> int | None:
    """The same, of any network whose last linear layer is called so; see `classes_of`."""
    width = _width(state_dict, last)
    if width is not None and width < 2:
        outputs = "one output" if width else "no outputs"
        raise ConvertError(f"the head {last} has {outputs}; it needs two classes at least")
    return width


def options_of(state_dict: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The widths of a VGG's hidden layers in a state_dict, as `create` takes them."""
    if not is_vgg(name):
        return {}
    widths = [_width(state_dict, layer) for layer in VGG_LINEAR[:2]]
    return {} if None in widths else {"hidden": widths}


def _width(state_dict: Mapping[str, Any], layer: str) -> int | None:
    """How many outputs a linear layer has, if its bias is one."""
    bias: Any = state_dict.get(f"{layer}.bias")
    return len(bias) if oddity(bias) is None and bias.ndim == 1 else None
