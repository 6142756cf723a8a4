"""The attack in PyTorch for a whole batch, as fast as we can make it: the baseline for speed.

Batch normalisation is folded into the convolutions, images are `channels_last`, alpha is a
constant to the gradient (no second-order pass), and `torch.compile` writes the kernels. What it
computes is what `convert.reference` computes.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from convert import reference
from convert.operators import torch
from convert.torchvision import twin_of
from gcpatch.attacks.settings import Attack
from gcpatch.networks import Network

nn = torch.nn
ATTACK = Attack()  # the settings of the attack that is taken here
Tensor: TypeAlias = Any  # torch.Tensor; torch itself is imported late and has no types


class Batched:
    """One attack (`hide`, adam) on a batch of images; `step` takes a step of it.

    Args:
        network: the network's name, layers and number of classes; PyTorch gets its weights.
        state_dict: PyTorch's weights.
        images: `[n, h, w, 3]` in [0, 1].
        targets: the class that each image shall be taken for.
        corner: row and column of the patch's top left pixel.
        size: the patch's side in pixels.
        device: where to compute.
        compiled: whether `torch.compile` writes the kernels.
        channels_last: how activations lie in memory.
        precision: float32, tf32 or bfloat16.
    """

    def __init__(
        self,
        network: Network,
        state_dict: Any,
        images: np.ndarray,
        targets: Sequence[int],
        corner: tuple[int, int],
        size: int,
        *,
        device: str = "cpu",
        compiled: bool = True,
        channels_last: bool = True,
        precision: str = "float32",
    ):
        model = twin_of(network)
        model.load_state_dict(state_dict)
        self.device, self.precision = device, precision
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        model = fold(model.eval().requires_grad_(False)).to(device, memory_format=self.layout)
        self.trunk, self.head = halves(model)
        if compiled:
            torch._dynamo.reset()
            torch._functorch.config.donated_buffer = False  # the head's graph is used twice
            # A second batch size would otherwise make slower kernels, for any size.
            self.trunk, self.head = (
                torch.compile(part, dynamic=False) for part in (self.trunk, self.head)
            )
        self.mean, self.std = (
            torch.tensor(values, device=device)[:, None, None]
            for values in (network.mean, network.std)
        )
        pixels = torch.from_numpy(np.asarray(images, np.float32)).permute(0, 3, 1, 2).to(device)
        self.images = ((pixels - self.mean) / self.std).contiguous(memory_format=self.layout)
        self.targets = torch.as_tensor(np.asarray(targets), device=device)
        (row, column), side = corner, images.shape[1:3]
        self.window = (..., slice(row, row + size), slice(column, column + size))
        self.noise = torch.zeros(len(images), 3, size, size, device=device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.noise], lr=ATTACK.rate)
        with torch.no_grad():
            cells = self.trunk(self.images).shape[2:]
        covered: Any = reference.coverage(cells, side, corner, size)
        self.covered = covered.float().to(device)

    def step(self) -> Tensor:
        """Gradient, update, projection; returns each image's total loss `[n]`."""
        found = self.evaluate()
        self.noise.grad = found.gradient
        self.optimizer.step()
        self.project()
        return found.losses

    def evaluate(self) -> "Evaluated":
        """Losses of both kinds, balanced at the layer, and what becomes of the noise by them."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bfloat16"):
            image = self.images.clone(memory_format=self.layout)
            image[self.window] = self.noise
            activations = self.trunk(image)
            logits = self.head(activations)
            scores = logits.gather(1, self.targets[:, None]).sum()
            (gradient,) = torch.autograd.grad(scores, activations, retain_graph=True)
            alpha = gradient.float().mean((2, 3), keepdim=True)
            heat = torch.relu((alpha * activations.float()).sum(1))
            hidden = (heat * self.covered).sum((1, 2)) / self.covered.sum()
            odds = logits.float().softmax(1)
            chosen = odds.gather(1, self.targets[:, None])[:, 0]
            entropy = -chosen.log() * (chosen < ATTACK.confidence)
            pulls = [
                torch.autograd.grad(loss.sum(), activations, retain_graph=True)[0]
                for loss in (hidden, entropy)
            ]
            pull = unit(pulls[0]) + ATTACK.ce_weight * unit(pulls[1])
            (by_noise,) = torch.autograd.grad(activations, self.noise, pull)
        losses = (hidden + ATTACK.ce_weight * entropy).detach()
        return Evaluated(losses, by_noise, odds.detach(), heat.detach())

    def project(self) -> None:
        """Keeps the noise to valid pixels."""
        with torch.no_grad():
            self.noise.clamp_(-self.mean / self.std, (1 - self.mean) / self.std)


class Evaluated(NamedTuple):
    """Total losses `[n]`, gradient by the noise, probabilities `[n, classes]`, maps `[n, h, w]`."""

    losses: Tensor
    gradient: Tensor
    odds: Tensor
    heat: Tensor


def unit(gradients: Tensor) -> Tensor:
    """Each image's gradient `[n, ...]` with length 1; where it is zero, as it is."""
    lengths = gradients.float().flatten(1).norm(dim=1)
    scale = torch.where(lengths > 0, 1 / lengths, 1.0)
    return gradients * scale.to(gradients.dtype)[:, None, None, None]


def fold(model: Any) -> Any:
    """The model with its batch normalisations folded into the convolutions before them."""
    for parent in list(model.modules()):
        for (name, conv), (after, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, nn.utils.fusion.fuse_conv_bn_eval(conv, norm))
                setattr(parent, after, nn.Identity())
    return model


def halves(model: Any) -> tuple[Any, Any]:
    """torchvision's VGG or ResNet, cut behind the layer that Grad-CAM explains."""
    if hasattr(model, "features"):
        head = [model.features[-1], model.avgpool, nn.Flatten(), *model.classifier]
        return model.features[:-1], nn.Sequential(*head)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    trunk = nn.Sequential(*(getattr(model, name) for name in names))
    return trunk, nn.Sequential(model.avgpool, nn.Flatten(), model.fc)
