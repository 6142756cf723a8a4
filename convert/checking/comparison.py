"""gcpatch and PyTorch side by side: the same weights and images, number by number."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from convert import reference
from convert.operators import torch
from convert.torchvision import twin_of
from convert.tracing.imported import Imported
from gcpatch.attacks import engine, objectives, step
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import LEARNING_RATES, OPTIMIZERS, Attack
from gcpatch.attacks.step import Losses, Problem
from gcpatch.explainers import cam
from gcpatch.losses import Evidence
from gcpatch.networks import Network, fill, parameters
from gcpatch.runs.options import PRECISIONS

OBJECTIVES = {name: objectives.OBJECTIVES[name].loss for name in reference.OBJECTIVES}
LOSSES_ON = 4  # images whose losses and gradients are compared
PLAIN = Attack(balance=False)  # whose gradient is that of the total loss, eq. 5 as it stands
RATIO = 0.8  # of the patch while it is optimised


class Tolerances(NamedTuple):
    """The largest relative error of values and maps, of patch gradients, of optimised patches."""

    values: float
    gradients: float
    patches: float


# In float32 rounding puts a unit near 0, or a tie in a pool, on either side, and the gradient
# jumps: PyTorch's own differs by up to 3e-2 from its float64, on other images than ours. A row of
# its own says how well the best image agrees. Rounding also decides the sign of gradients near 0,
# and a step that it turns round is as long as any: an optimised patch must be much the same, no
# more. The proof of gradients and steps is float64.
FLOAT32 = Tolerances(1e-4, 1e-3, 0.2)
TOLERANCES = {"float64": Tolerances(1e-10, 1e-10, 1e-8), **dict.fromkeys(PRECISIONS, FLOAT32)}


class Row(NamedTuple):
    """A quantity's largest errors over the images; `relative` is ||a - b|| / ||b||."""

    network: str
    quantity: str
    max_abs: float
    relative: float
    tolerance: float
    passed: bool


def first_difference(rows: Sequence[Row]) -> Row | None:
    """The row at which a network parts from PyTorch: the first that failed."""
    return next((row for row in rows if not row.passed), None)


def errors(ours: Any, theirs: Any) -> tuple[float, float]:
    """The largest absolute and the relative error; infinite where shapes or values are amiss."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return math.inf, math.inf
    difference, size = float(np.linalg.norm(ours - theirs)), float(np.linalg.norm(theirs))
    relative = difference / size if size else math.inf if difference else 0.0
    return float(np.abs(ours - theirs).max()), relative


@jax.jit
def _look(
    network: Network, image: Float[Array, "h w 3"], label: Any
) -> dict[str, Float[Array, "..."]]:
    outputs = {"normalize": network.normalize(image), **network.activations(image)}
    _, head = network.split()
    alpha = jax.grad(lambda value: head(value)[label])(outputs[network.resolve()]).mean((0, 1))
    heat = cam.grad_cam(network, image, label)
    return {**outputs, "logits": network(image), "alpha": alpha, "map": heat}


@jax.jit
def losses_of(
    network: Network, tile: Float[Array, "s s 3"], problem: Problem, chosen: Float[Array, " n"]
) -> tuple[Losses, Float[Array, "s s 3"]]:
    """The losses of the chosen objective (one-hot), and the total's gradient by the tile."""

    def objective(evidence: Evidence) -> Float[Array, ""]:
        return jnp.stack([loss(evidence) for loss in OBJECTIVES.values()]) @ chosen

    differentiate = jax.grad(step.evaluate, argnums=1, has_aux=True)
    attack = replace(PLAIN, objective=objective)
    gradient, (losses, _) = differentiate(network, tile, problem, attack)
    return losses, gradient


class Rows:
    """A network's quantities and their errors, image by image; what came of it is in `rows`."""

    def __init__(self, name: str, precision: str):
        self.name = name
        self.kind = np.dtype("float64" if precision == "float64" else "float32")
        self.tolerances = TOLERANCES[precision]
        self.rows: dict[str, Row] = {}

    def add(
        self,
        quantity: str,
        ours: Any,
        theirs: Any,
        tolerance: float,
        worse: Callable[[float, float], float] = max,
    ) -> None:
        """Keeps a quantity's largest errors over the images; its smallest if `worse` is `min`."""
        found = errors(ours, theirs)
        if quantity in self.rows:
            row = self.rows[quantity]
            found = worse(found[0], row.max_abs), worse(found[1], row.relative)
        passed = found[1] <= tolerance
        self.rows[quantity] = Row(self.name, quantity, *found, tolerance, passed)


class Comparison(Rows):
    """One network here and in PyTorch, image by image.

    Args:
        network: the network here.
        theirs: PyTorch's weights; or, of an imported network, the module that has them.
        precision: float64, or one of `PRECISIONS`; PyTorch has float32 for all of these.
    """

    def __init__(self, network: Network, theirs: Any, precision: str):
        super().__init__(network.name, precision)
        self.network = cast(network, self.kind)
        self.imported = None
        if isinstance(theirs, Mapping):
            self.classifier = classifier(network, theirs, self.kind.name)
        else:
            self.imported = Imported(network, theirs, self.kind.name)
            self.classifier = self.imported.classifier

    def look(self, image: Float[np.ndarray, "h w 3"]) -> int:
        """Compares stages, logits, alpha, map and top classes; returns the class of the map.

        It is among the best but the first, and has something in its map if one of them has.
        """
        pixels = tensor(image)
        order = reference.grad_cam(self.classifier, pixels, 0).logits.argsort(descending=True)
        for label in order[1:6].tolist():
            found = reference.grad_cam(self.classifier, pixels, label)
            if found.heat.any():
                break
        theirs = {"normalize": _array(self.classifier.normalize(pixels))}
        ours = _look(self.network, image, label)
        if self.imported:  # what is no module's output has no name in PyTorch
            theirs |= self.imported.stages(self.classifier.normalize(pixels)[None])
            names = {**theirs, "alpha": None, "map": None}
        else:
            theirs |= {name: _array(value[0]) for name, value in found.outputs.items()}
            theirs["logits"] = _array(found.logits)
            names = {**theirs, **ours}
        theirs |= {"alpha": _array(found.alpha), "map": _array(found.heat)}
        for name in names:
            if name != "flatten" or name in ours:  # a VGG here flattens in its first linear layer
                values = ours.get(name, ()), theirs.get(name, ())
                self.add(name, *values, self.tolerances.values)
        best = np.argsort(-np.asarray(ours["logits"]))
        for count in (1, 5):
            same = set(best[:count].tolist()) == set(order[:count].tolist())
            self.add(f"top-{count} classes", same, True, 0.0)
        return label

    def losses(self, image: Float[np.ndarray, "h w 3"], target: int) -> None:
        """Compares each objective's losses with a patch of random pixels, and their gradient."""
        problem, settings = problem_of(self.network, image, target, PLAIN)
        shape = (settings.size, settings.size, 3)
        tile = np.random.default_rng(0).random(shape).astype(self.kind)
        for name, chosen in zip(OBJECTIVES, np.eye(len(OBJECTIVES), dtype=self.kind), strict=True):
            ours, gradient = losses_of(self.network, tile, problem, chosen)
            theirs, by_tile = reference.gradient(
                self.classifier,
                tensor(image),
                tensor(tile),
                target,
                replace(settings, objective=name),
            )
            for quantity, term in (
                ("cross-entropy", "cross_entropy"),
                (f"{name}: loss of the map", "explanation"),
                (f"{name}: total loss", "total"),
            ):
                wanted = _array(getattr(theirs, term))
                self.add(quantity, getattr(ours, term), wanted, self.tolerances.values)
            wanted, tolerance = _array(by_tile), self.tolerances.gradients
            self.add(f"{name}: gradient", gradient, wanted, tolerance)
            if self.kind == np.float32:
                self.add(f"{name}: gradient, best image", gradient, wanted, tolerance, min)

    def patches(self, image: Float[np.ndarray, "h w 3"], target: int, attack: Attack) -> None:
        """Compares the noise (N) after an attack, evaluated incrementally as attacks are."""
        problem, settings = problem_of(self.network, image, target, attack)
        reach = engine.reach_of(self.network, image, corner=settings.corner, size=settings.size)
        problem = engine.remember(self.network, problem, reach)
        state = step.init_state(self.network, problem, (settings.size, settings.size), attack)
        noise = tensor(state.noise)
        theirs = reference.attack(self.classifier, tensor(image), noise, target, settings)
        states, problems = jax.tree.map(lambda leaf: leaf[None], (state, problem))
        states, _ = engine.advance(
            self.network, states, problems, attack, attack.steps, reach.program
        )
        quantity = f"patch after {attack.steps} {attack.optimizer} steps"
        self.add(quantity, states.noise[0], _array(theirs.noise), self.tolerances.patches)


def problem_of(
    network: Network, image: Float[np.ndarray, "h w 3"], target: int, attack: Attack
) -> tuple[Problem, reference.Settings]:
    """An attack of one image for either side: top right, 64 of 224 pixels."""
    size = image.shape[0] * 2 // 7
    place = Patch(size, RATIO).place(*image.shape[:2])
    unseen = jnp.zeros((1, 1), image.dtype)  # no objective of the reference looks at clean maps
    problem = step.make_problem(
        network,
        image,
        target,
        attack,
        placement=place,
        key=jax.random.key(0),
        label=int(target == 0),
        clean_heat=unseen,
        clean_heat_of_target=unseen,
    )
    rate = LEARNING_RATES[attack.optimizer]
    return problem, reference.Settings(
        attack.objective.name,
        attack.optimizer,
        rate,
        attack.steps,
        size,
        place.corner,
        RATIO,
        ce_weight=attack.ce_weight,
        balance=attack.balance,
        ring=attack.ring,
    )


def classifier(
    network: Network, state_dict: Mapping[str, Any], kind: str = "float32"
) -> reference.Classifier:
    """torchvision's module of a network, with these weights, and the network's own input stage."""
    model = twin_of(network).to(getattr(torch, kind))
    model.load_state_dict(state_dict)
    taken, layer = reference.take_apart(model), network.target_layer
    under = [name for name in taken.stages if f"{name}.".startswith(f"{layer}.")]
    return replace(taken, layer=under[-1], mean=network.mean, std=network.std)


def tensor(values: Any) -> Any:
    """An image as PyTorch has it: `[channel, h, w]`."""
    return torch.from_numpy(np.array(np.asarray(values).transpose(2, 0, 1), order="C"))


def _array(values: Any) -> np.ndarray:
    """What PyTorch gave, as it is here: channels last."""
    array = values.detach().numpy()
    return array.transpose(1, 2, 0) if array.ndim == 3 else array


def cast(network: Network, kind: np.dtype) -> Network:
    """The network with its parameters in a type."""
    values = {key: np.asarray(leaf, kind) for key, leaf in parameters(network).items()}
    return fill(network, values)


def compare(
    network: Network,
    theirs: Any,
    images: UInt8[np.ndarray, "n h w 3"],
    precision: str = "float64",
    steps: int = 0,
    optimizers: Sequence[str] = tuple(OPTIMIZERS),
    on_task: Callable[[], Any] = lambda: None,
) -> list[Row]:
    """Everything that a network computes beside what PyTorch computes, in that order.

    Args:
        network: the network here.
        theirs: see `Comparison`.
        images: 8-bit RGB; losses and gradients of the first `LOSSES_ON`, patches on the first.
        precision: see `Comparison`.
        steps: of each optimiser; none if 0.
        optimizers: whose steps are compared.
        on_task: called after each image, each image's losses, and each optimiser.
    """
    matmul = jax.default_matmul_precision(PRECISIONS.get(precision, "highest"))
    with jax.enable_x64(precision == "float64"), matmul:
        comparison = Comparison(network, theirs, precision)
        unit = [(image / 255).astype(comparison.kind) for image in images]
        targets = []
        for image in unit:
            targets.append(comparison.look(image))
            on_task()
        for image, target in list(zip(unit, targets, strict=True))[:LOSSES_ON]:
            comparison.losses(image, target)
            on_task()
        for optimizer in optimizers if steps else ():
            attack = Attack(optimizer=optimizer, init="random", steps=steps)
            comparison.patches(unit[0], targets[0], attack)
            on_task()
    return list(comparison.rows.values())
