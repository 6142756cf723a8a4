"""PyTorch's ways to a fooled image, beside gcpatch's: see `gcpatch.evaluation.success`."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from convert import ConvertError, reference
from convert.batched import ATTACK, Batched
from convert.bench import Memory
from convert.checking.comparison import classifier, tensor
from convert.operators import torch
from convert.torchvision import to_torch, twin_of
from gcpatch.attacks.objectives import HIDDEN, MARGIN
from gcpatch.attacks.presets import PRESETS
from gcpatch.attacks.settings import AttackError
from gcpatch.attacks.slots import CHUNK
from gcpatch.evaluation.bench import clock
from gcpatch.evaluation.success import Attacker, Attempt, Case, Mode, Setting
from gcpatch.networks import Network

FEW = 4  # images of the modes that take one at a time
TRIALS = 5  # of each way to compute the batched attack; the median counts
ART = "adversarial-robustness-toolbox"


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


# ---- the same algorithm, batched


class Refilled(Batched):
    """A batch whose slots take the next image when theirs is done: adam counts for each alone."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.count = torch.zeros(len(self.images), device=self.device)
        self.first, self.second = torch.zeros_like(self.noise), torch.zeros_like(self.noise)

    def put(self, slot: int, case: Case, start: np.ndarray | None) -> None:
        """Begins an image in a slot, from this tile of pixels or from their mean."""

        def normalized(pixels: Any) -> Any:
            return (tensor(np.asarray(pixels, np.float32)).to(self.device) - self.mean) / self.std

        self.images[slot], self.targets[slot] = normalized(case.image), case.target
        for values in (self.noise.data, self.first, self.second, self.count):
            values[slot] = 0
        if start is not None:
            self.noise.data[slot] = normalized(start)

    def advance(self) -> tuple[Any, Any]:
        """A step; what each image lacked `[n]`, and the noise that lacked it `[n, 3, s, s]`."""
        _, gradient, odds, heat = self.evaluate()
        with torch.no_grad():
            before = self.noise.clone()
            chosen = odds.gather(1, self.targets[:, None])[:, 0]
            rival = odds.scatter(1, self.targets[:, None], 0).amax(1)
            total = heat.sum((1, 2))
            share = (heat * self.covered).sum((1, 2)) / torch.where(total > 0, total, 1)
            gap = (rival.clamp(min=ATTACK.confidence) - chosen).clamp(min=0)
            lacking = gap + (share - (HIDDEN - MARGIN)).clamp(min=0)
            self.count += 1
            self.first.lerp_(gradient, 0.1)
            self.second.lerp_(gradient**2, 0.001)
            age = self.count[:, None, None, None]
            slope, size = self.first / (1 - 0.9**age), self.second / (1 - 0.999**age)
            self.noise -= ATTACK.rate * slope / (size.sqrt() + 1e-8)
        self.project()
        return lacking.cpu().numpy(), before


def batched(network: Network, setting: Setting) -> Attacker:
    """The fastest of eager and compiled, with half, once or twice the images at a time.

    Each is tried for a few steps after it is compiled; nothing else should compute meanwhile.
    """
    if setting.attack.objective.name != "hide":
        raise AttackError(f"torch-batched attacks `hide`, not {setting.attack.objective.name!r}")
    weights = to_torch(network)

    def made(count: int, compiled: bool) -> Refilled:
        side, size = network.preprocessing.size, setting.patch.size
        return Refilled(
            network,
            weights,
            np.zeros((count, side, side, 3), np.float32),
            [0] * count,
            setting.patch.corner(side, side),
            size,
            device=_device(),
            compiled=compiled,
        )

    def pace(choice: tuple[int, bool]) -> float:
        return clock(made(*choice).advance, TRIALS).step / choice[0]

    counts = sorted({max(1, setting.batch // 2), setting.batch, 2 * setting.batch})
    count, compiled = min(itertools.product(counts, (False, True)), key=pace)
    fast = made(count, compiled)

    def attacker(cases: Sequence[Case], steps: int) -> Iterator[Attempt]:
        return refill(fast, cases, steps, setting)

    return Attacker(attacker, f"{'compiled' if compiled else 'eager'}, {count} at a time")


def refill(
    batch: Refilled, cases: Sequence[Case], steps: int, setting: Setting
) -> Iterator[Attempt]:
    """Attacks all cases; a slot without one computes on."""
    queue = iter(enumerate(cases))
    taken: dict[int, int] = {}  # the case in each slot
    best: dict[int, tuple[float, Any]] = {}  # what it lacked at least, and the noise of that step
    place = setting.patch.place(*cases[0].image.shape[:2])
    (row, column), (rows, columns), _, _ = place
    while True:
        for slot in set(range(len(batch.count))) - taken.keys():
            if (entry := next(queue, None)) is not None:
                batch.put(slot, entry[1], setting.start(entry[1]))
                taken[slot], best[slot] = entry[0], (np.inf, None)
        if not taken:
            return
        lacking, noise = batch.advance()
        for slot, number in list(taken.items()):
            if lacking[slot] < best[slot][0]:
                best[slot] = lacking[slot], noise[slot]
            count = int(batch.count[slot])
            if lacking[slot] == 0 or count >= steps or not np.isfinite(lacking[slot]):
                tile = best[slot][1] if best[slot][1] is not None else noise[slot]
                image = np.array(cases[number].image)
                pixels = (tile * batch.std + batch.mean).clamp(0, 1).permute(1, 2, 0)
                image[row : row + rows, column : column + columns] = pixels.cpu().numpy()
                del taken[slot]
                yield Attempt(number, image, count, place)


# ---- [16] and others, one image at a time


def subramanya(network: Network, setting: Setting) -> Attacker:
    """[16]'s rule as published: its own place, steps and stopping; of the setting the size."""
    patch, attack = PRESETS["subramanya"]
    patch = replace(patch, size=setting.patch.size)
    with torch.device(_device()):
        model = classifier(network, to_torch(network))

    def attacker(cases: Sequence[Case], steps: int) -> Iterator[Attempt]:
        most = attack.steps if steps == setting.attack.steps else min(steps, attack.steps)
        for number, (pixels, target) in enumerate(cases):
            place = patch.place(*pixels.shape[:2])
            settings = reference.Settings(
                objective=attack.objective.name,
                optimizer=attack.optimizer,
                learning_rate=attack.rate,
                steps=most,
                size=patch.size,
                corner=place.corner,
                ce_weight=attack.ce_weight,
                confidence=attack.confidence,
                project=attack.project,
                clean_first=True,
                patience=attack.patience,
            )
            with torch.device(_device()):
                noise = torch.zeros(3, patch.size, patch.size)
                image = tensor(pixels).to(_device())
                found = reference.attack(model, image, noise, target, settings)
            (row, column), (rows, columns), _, _ = place
            adversarial = np.array(pixels)
            tile = found.best_tile.detach().permute(1, 2, 0).cpu().numpy()
            adversarial[row : row + rows, column : column + columns] = tile
            yield Attempt(number, adversarial, len(found.history), place)

    return Attacker(attacker)


def art(network: Network, setting: Setting) -> Attacker:
    """ART's AdversarialPatch at a fixed place, a patch for each image; it knows no explanations.

    It has no stopping rule: after every `CHUNK` steps we ask whether the class is the target's.

    Raises:
        ConvertError: ART, or what it needs in turn, is not installed.
    """
    try:
        from art.attacks.evasion import AdversarialPatchPyTorch
        from art.estimators.classification import PyTorchClassifier
    except ImportError as error:
        lacking = (error.name or "art").split(".")[0]
        packages = ART if lacking == "art" else f"{ART} {lacking}"
        raise ConvertError(f"the mode `art` needs ART ({error}): pip install {packages}") from error

    model = twin_of(network)
    model.load_state_dict(to_torch(network))
    side, size = network.preprocessing.size, setting.patch.size
    row, column = setting.patch.corner(side, side)
    estimator = PyTorchClassifier(
        model=model.eval(),
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=(3, side, side),
        nb_classes=len(network.categories),
        clip_values=(0.0, 1.0),
        preprocessing=(np.asarray(network.mean, "f4"), np.asarray(network.std, "f4")),
        device_type="gpu" if torch.cuda.is_available() else "cpu",
    )

    def attacker(cases: Sequence[Case], steps: int) -> Iterator[Attempt]:
        for number, (pixels, target) in enumerate(cases):
            image = np.asarray(pixels, np.float32).transpose(2, 0, 1)[None]
            wanted = np.eye(len(network.categories), dtype=np.float32)[[target]]
            method = AdversarialPatchPyTorch(
                estimator,
                rotation_max=0.0,
                scale_min=size / side,
                scale_max=size / side + 1e-6,
                learning_rate=setting.attack.rate * float(np.mean(network.std)),  # in pixels
                max_iter=CHUNK,
                batch_size=1,
                patch_shape=(3, size, size),
                patch_location=(column, row),
                patch_type="square",
                optimizer="Adam",
                targeted=True,
                verbose=False,
            )
            for count in itertools.count(CHUNK, CHUNK):
                method.generate(x=image, y=wanted)
                found = method.apply_patch(image, scale=size / side)
                if count >= steps or estimator.predict(found).argmax() == target:
                    break
            place = setting.patch.place(side, side)
            yield Attempt(number, found[0].transpose(1, 2, 0), count, place)

    return Attacker(attacker)


MODES: dict[str, Mode] = {
    "torch-batched": Mode(batched, memory=Memory, variant="torch-batched"),
    "torch-subramanya": Mode(subramanya, most=FEW, memory=Memory, variant="torch-single"),
    "art": Mode(art, class_only=True, most=FEW, memory=Memory),
}
