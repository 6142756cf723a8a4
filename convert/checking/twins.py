"""torchvision's own modules beside our networks, for proof that both compute the same."""

import itertools
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from convert.operators import torch, torchvision
from gcpatch.data import scenes
from gcpatch.networks import SMALL, Network
from gcpatch.networks.vgg import HIDDEN
from gcpatch.networks.zoo import CONSTRUCTORS

nn = torch.nn


def twin_of(network: Network) -> Any:
    """torchvision's own module for a network: of its widths, with its number of classes."""
    return twin(network.architecture, len(network.categories), **network.options)


def twin(name: str, classes: int | None = None, hidden: Sequence[int] | None = None) -> Any:
    """torchvision's own module of this name with random weights, in evaluation mode.

    It takes *normalised* images `[batch, 3, height, width]`. The minis, which torchvision does not
    have, are put together from its parts.

    Args:
        name: one of `gcpatch.networks.NAMES`.
        classes: the number of classes; 1000, or the scenes' for a mini, if None.
        hidden: the widths of a VGG's two hidden linear layers, if they are not its own.

    Raises:
        ValueError: torchvision has no such network.
    """
    if name not in SMALL:
        model = torchvision.models.get_model(name, weights=None, num_classes=classes or 1000)
        if hidden is not None and tuple(hidden) != HIDDEN:
            model = _with_head(model, hidden, classes or 1000)
        return model.eval()
    build = _small_vgg if name.startswith("mini_vgg") else _small_resnet
    options = cast(partial, CONSTRUCTORS[name]).keywords
    options = options if hidden is None else {**options, "hidden": hidden}
    return build(classes or len(scenes.CATEGORIES), **options).eval()


def _with_head(model: Any, hidden: Sequence[int], classes: int) -> Any:
    """A VGG with linear layers of other widths."""
    channels = [layer for layer in model.features if isinstance(layer, nn.Conv2d)][-1].out_channels
    widths = [channels * 7 * 7, *hidden, classes]
    for place, (inputs, outputs) in zip((0, 3, 6), itertools.pairwise(widths), strict=True):
        model.classifier[place] = nn.Linear(inputs, outputs)
    return model


def _small_vgg(classes: int, *, plan: Iterable, normalized: bool, hidden: Sequence[int]) -> Any:
    """torchvision's VGG with narrow layers in place of its own, which never take up memory."""
    with torch.device("meta"):
        model = torchvision.models.VGG(nn.Identity(), init_weights=False)
    model.features = torchvision.models.vgg.make_layers(list(plan), batch_norm=normalized)
    return _with_head(model, hidden, classes)


def _small_resnet(
    classes: int, *, blocks: Sequence[int], planes: int, groups: int = 1, width_per_group: int = 64
) -> Any:
    """torchvision's ResNet of its own Bottlenecks, with a stem of `planes` channels."""
    bottleneck = torchvision.models.resnet.Bottleneck
    with torch.device("meta"):
        model = torchvision.models.ResNet(
            bottleneck, [1, 1, 1, 1], groups=groups, width_per_group=width_per_group
        )
    model.inplanes = planes
    model.conv1 = nn.Conv2d(3, planes, 7, stride=2, padding=3, bias=False)
    model.bn1 = nn.BatchNorm2d(planes)
    for i, count in enumerate(blocks):
        layer = model._make_layer(bottleneck, planes * 2**i, count, stride=1 if i == 0 else 2)
        setattr(model, f"layer{i + 1}", layer)
    model.fc = nn.Linear(model.inplanes, classes)
    return model


def torch_input(network: Network, images: np.ndarray) -> Any:
    """Images `[batch, h, w, 3]` in [0, 1] as the normalised `[batch, 3, h, w]` of the twin."""
    mean, std = (np.asarray(value, images.dtype) for value in (network.mean, network.std))
    return torch.from_numpy(np.ascontiguousarray(((images - mean) / std).transpose(0, 3, 1, 2)))


def activations(model: Any, inputs: Any, names: Iterable[str]) -> dict[str, np.ndarray]:
    """What a twin computes at these stages (of `Network.activations`), in one forward pass.

    Stages that are no torch modules, such as `flatten`, are left out. Outputs are copied as each
    layer finishes, because torchvision's ReLUs overwrite their inputs.

    Args:
        model: a twin.
        inputs: normalised images `[batch, 3, h, w]`.
        names: the stages.

    Returns:
        Feature maps `[batch, h, w, channel]` and vectors `[batch, channel]` by stage.
    """
    modules, outputs = dict(model.named_modules()), {}

    def keep(name: str):
        def hook(_module, _inputs, output):
            value = output.detach().clone().numpy()
            outputs[name] = value.transpose(0, 2, 3, 1) if value.ndim == 4 else value

        return hook

    handles = [modules[name].register_forward_hook(keep(name)) for name in names if name in modules]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return outputs
