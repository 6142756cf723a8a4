"""Grad-CAM and Algorithm 1 in plain PyTorch, on torchvision's modules: what gcpatch must equal.

Written from the paper, one image at a time, with the full second-order gradient; it shares no code
with gcpatch. Images and tiles are `[3, h, w]` in [0, 1], the noise N is in normalised units as in
[16] (Subramanya et al., 2019), and "line 12" is line 12 of the paper's Algorithm 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from convert.operators import torch

nn = torch.nn
Tensor: TypeAlias = Any  # torch.Tensor; torch itself is imported late and has no types

OBJECTIVES = ("hide", "highlight", "classify", "paper", "subramanya")  # the paper's and [16]'s
OPTIMIZERS = {
    "sign": torch.optim.SGD,  # of the gradient's sign
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "adam": torch.optim.Adam,
}


@dataclass(frozen=True)
class Classifier:
    """A classifier as stages that run in a row on `[1, 3, h, w]`; Grad-CAM explains `layer`."""

    stages: dict[str, Callable[[Tensor], Tensor]]
    layer: str
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def units(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The channels' mean and standard deviation, `[3, 1, 1]` each, as `image` is stored."""
        mean, std = torch.tensor([self.mean, self.std], dtype=image.dtype)[:, :, None, None]
        return mean, std

    def normalize(self, image: Tensor) -> Tensor:
        """Pixels in [0, 1] to the units that the first stage takes."""
        mean, std = self.units(image)
        return (image - mean) / std


def take_apart(model: Any) -> Classifier:
    """torchvision's VGG or ResNet as stages, explained where the paper does (table 1).

    Its weights are frozen and its ReLUs no longer overwrite their inputs.
    """
    model.eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    if hasattr(model, "features"):  # VGG: the ReLU before the last pooling
        front = {f"features.{i}": layer for i, layer in enumerate(model.features)}
        back = {f"classifier.{i}": layer for i, layer in enumerate(model.classifier)}
        layer = f"features.{len(front) - 2}"
    else:  # ResNet: the last block
        front = {name: getattr(model, name) for name in ("conv1", "bn1", "relu", "maxpool")}
        for name in ("layer1", "layer2", "layer3", "layer4"):
            front |= {f"{name}.{i}": block for i, block in enumerate(getattr(model, name))}
        back = {"fc": model.fc}
        layer = list(front)[-1]
    middle = {"avgpool": model.avgpool, "flatten": nn.Flatten()}
    return Classifier({**front, **middle, **back}, layer)


class Explanation(NamedTuple):
    """Grad-CAM of one class: what each stage gave `[1, ...]`, alpha `[k]` and G `[h2, w2]`."""

    outputs: dict[str, Tensor]
    logits: Tensor
    alpha: Tensor
    heat: Tensor


def grad_cam(classifier: Classifier, image: Tensor, label: int) -> Explanation:
    """Grad-CAM (eqs. 1-3), differentiable by the image, and through alpha as well."""
    value, outputs = classifier.normalize(image)[None], {}
    for name, stage in classifier.stages.items():
        value = outputs[name] = stage(value)
        if name == classifier.layer and not value.requires_grad:
            value.requires_grad_()
    activations, logits = outputs[classifier.layer], value[0]  # line 12
    (gradient,) = torch.autograd.grad(logits[label], activations, create_graph=True)
    alpha = gradient[0].mean((1, 2))  # line 13
    heat = torch.relu((alpha[:, None, None] * activations[0]).sum(0))  # lines 14, 15
    return Explanation(outputs, logits, alpha, heat)


@dataclass(frozen=True)
class Settings:
    """How to attack; the fields mean what they mean in `gcpatch.Attack` and `gcpatch.Patch`."""

    objective: str
    optimizer: str
    learning_rate: float
    steps: int
    size: int
    corner: tuple[int, int]
    ratio: float = 1.0
    ce_weight: float = 0.05
    ce_gate: bool = True
    confidence: float = 0.9
    project: bool = True
    clean_first: bool = False
    patience: int = 1
    balance: bool = False
    ring: int = 0
    label: int | None = None  # which an untargeted attack leads away from


def coverage(
    cells: tuple[int, ...], image: tuple[int, ...], corner: tuple[int, int], size: int
) -> Tensor:
    """The share of each cell of a map that the patch covers, `[h2, w2]`."""
    shares = []
    for count, length, start in zip(cells, image, corner, strict=True):
        cell = length / count
        inside = [min(start + size, (i + 1) * cell) - max(start, i * cell) for i in range(count)]
        shares.append(torch.tensor(inside, dtype=torch.float64).clamp(min=0) / cell)
    return torch.outer(*shares)


def with_rings(covered: Tensor, rings: int) -> Tensor:
    """1 where a cell at most `rings` away is covered at all; without rings the coverage itself."""
    if not rings:
        return covered
    touched = (covered > 0).to(covered.dtype)[None, None]
    return nn.functional.max_pool2d(touched, 2 * rings + 1, 1, rings)[0, 0]


def energy(heat: Tensor, covered: Tensor) -> Tensor:
    """The share of the map's mass inside the patch; 0 for an all-zero map."""
    return (heat * covered).sum() / (heat.sum() if heat.sum() > 0 else 1)


def explanation_loss(heat: Tensor, covered: Tensor, settings: Settings) -> Tensor:
    """The loss on the map (lines 16-20 as the objective reads them)."""
    match settings.objective:
        case "hide":  # eq. 5
            return (heat * covered).sum() / covered.sum()
        case "highlight":
            return 1 - energy(heat, covered)
        case "classify":
            return torch.zeros((), dtype=heat.dtype)
        case "paper":
            n = 4 if settings.size == 64 else 2
            return heat[:n, :n].sum() / 16
        case "subramanya":
            return (heat / (heat.sum() + 1e-10))[:4, :4].sum() / 16
    raise ValueError(f"there is no objective {settings.objective!r}")


def confidence_gap(logits: Tensor, target: int, confidence: float) -> float:
    """What the target's probability lacks to the top class and to `confidence`; 0 if nothing."""
    odds = logits.detach().softmax(0)
    rivals = torch.cat([odds[:target], odds[target + 1 :]])
    return max(0.0, max(rivals.max().item(), confidence) - odds[target].item())


def rival(classifier: Classifier, image: Tensor, label: int) -> int:
    """The most probable class but the label, which an untargeted attack is nearest to."""
    logits = grad_cam(classifier, image, label).logits.detach().clone()
    logits[label] = -torch.inf
    return int(logits.argmax())


class Losses(NamedTuple):
    """One evaluation: the losses, and how far it is from what the objective wants (0: there).

    `minimised` is what the gradient is of: the total, or with `balance` the sum of the same two
    losses, each divided by the length of its gradient by the layer's activations.
    """

    total: Tensor
    cross_entropy: Tensor
    explanation: Tensor
    shortfall: float
    minimised: Tensor


def evaluate(
    classifier: Classifier, image: Tensor, target: int | None, settings: Settings
) -> Losses:
    """The losses of one adversarial image (lines 12-22); without a target, of its label's rival."""
    if target is None:
        assert settings.label is not None
        target = rival(classifier, image, settings.label)
    outputs, logits, _, heat = grad_cam(classifier, image, target)
    covered = coverage(heat.shape, image.shape[1:], settings.corner, settings.size).to(heat.dtype)
    covered = with_rings(covered, settings.ring)
    explanation = explanation_loss(heat, covered, settings)
    entropy = nn.functional.cross_entropy(logits[None], torch.tensor([target]))  # line 21
    unsure = confidence_gap(logits, target, settings.confidence)
    counts = unsure > 0 or not settings.ce_gate
    total = explanation + settings.ce_weight * entropy * counts  # line 22
    minimised = total
    if settings.balance:
        activations = outputs[classifier.layer]
        minimised = sum(
            weight * loss / length(loss, activations)
            for weight, loss in ((1, explanation), (settings.ce_weight * counts, entropy))
        )
    share, peak = energy(heat, covered).item(), covered.flatten()[heat.argmax()].item()
    lacking = {
        "classify": unsure,
        "hide": unsure + max(0.0, share - 0.03),
        "highlight": unsure + max(0.0, 0.52 - share) + 0.1 * (peak < 0.5),
    }.get(settings.objective, total.item())
    return Losses(total, entropy, explanation, lacking, minimised)


def length(loss: Tensor, activations: Tensor) -> float:
    """The length of a loss's gradient by the activations; 1 where it is zero."""
    if not loss.requires_grad:
        return 1.0
    (by_activations,) = torch.autograd.grad(loss, activations, retain_graph=True)
    return by_activations.norm().item() or 1.0


def gradient(
    classifier: Classifier, image: Tensor, tile: Tensor, target: int | None, settings: Settings
) -> tuple[Losses, Tensor]:
    """The losses with a tile `[3, s, s]` in the image, and the total's gradient by the tile."""
    (row, column), size = settings.corner, settings.size
    tile = tile.detach().requires_grad_()
    adversarial = image.clone()
    adversarial[:, row : row + size, column : column + size] = tile
    losses = evaluate(classifier, adversarial, target, settings)
    return losses, torch.autograd.grad(losses.minimised, tile)[0]  # line 23


class Outcome(NamedTuple):
    """The noise after the last step, the best tile, `[3, s, s]` each, and every step's losses."""

    noise: Tensor
    best_tile: Tensor
    history: list[Losses]


def attack(
    classifier: Classifier, image: Tensor, noise: Tensor, target: int | None, settings: Settings
) -> Outcome:
    """Algorithm 1, lines 10-27, from this noise on; ends once the goal is met often enough.

    Without a target the image shall be taken for any class but `settings.label`.
    """
    (row, column), size, ratio = settings.corner, settings.size, settings.ratio
    clean = image[:, row : row + size, column : column + size]
    mean, std = classifier.units(image)
    noise = noise.clone()
    optimizer = OPTIMIZERS[settings.optimizer]([noise], lr=settings.learning_rate)
    best_tile, best, streak = clean, float("inf"), 0
    history: list[Any] = []
    while len(history) < settings.steps and streak < settings.patience:  # line 11
        tile = ((1 - ratio) * clean + ratio * (noise * std + mean)).clamp(0, 1)  # line 25
        if settings.clean_first and not history:
            tile = clean
        losses, by_tile = gradient(classifier, image, tile, target, settings)
        noise.grad = by_tile * ratio * std  # by N, as if line 25's clamp were not there
        if settings.optimizer == "sign":
            noise.grad.sign_()
        optimizer.step()  # line 24
        if settings.project:
            noise.clamp_(-mean / std, (1 - mean) / std)
        history.append(losses)
        streak = streak + 1 if losses.shortfall == 0 else 0
        if losses.shortfall < best:
            best_tile, best = tile, losses.shortfall
    return Outcome(noise, best_tile, history)
