"""The cells of the tables: which settings are attacked, each a run's folder of its own."""

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import LEARNING_RATES, Attack
from gcpatch.data import sources
from gcpatch.data.sources import Item
from gcpatch.explainers import cam
from gcpatch.networks import Network
from gcpatch.runs import campaign
from gcpatch.runs.journal import Journal
from gcpatch.runs.progress import ConsoleProgress

SEED = 3  # training sees the scenes of seed 1, its accuracy is measured on those of seed 2
OBJECTIVES = ("classify", "highlight", "hide")
PAPER = ((64, 1.0), (32, 0.2))  # the paper's two settings, size and ratio
RATIOS = (0.1, 0.2, 0.4, 1.0)
RATES = (1 / 3, 1.0, 3.0)  # times the optimiser's own


class Cell(NamedTuple):
    """One setting; `factor` times the optimiser's own learning rate is its rate."""

    network: str
    objective: str
    size: int = 64
    ratio: float = 1.0
    position: str = "top-right"
    optimizer: str = "adam"
    factor: float = 1.0

    @property
    def rate(self) -> float:
        """The learning rate, to three digits."""
        return float(f"{LEARNING_RATES[self.optimizer] * self.factor:.3g}")

    @property
    def folder(self) -> Path:
        """Where its run is, inside the folder of all."""
        return Path(self.network, "-".join(map(str, (*self[1:-1], self.rate))))


def paper(networks: Sequence[str]) -> list[Cell]:
    """The paper's two settings, for every network."""
    return [Cell(n, o, *patch) for n, patch, o in itertools.product(networks, PAPER, OBJECTIVES)]


def factorial(networks: Sequence[str]) -> list[Cell]:
    """Size x ratio x position x objective, for the first network."""
    settings = itertools.product((64, 32), (1.0, 0.2), ("top-right", "top-left"), OBJECTIVES)
    return [
        Cell(networks[0], objective, size, ratio, position)
        for size, ratio, position, objective in settings
    ]


def ratios(networks: Sequence[str]) -> list[Cell]:
    """From stealthy to plain, for the first network."""
    return [Cell(networks[0], o, ratio=r) for r, o in itertools.product(RATIOS, OBJECTIVES)]


def optimisers(networks: Sequence[str]) -> list[Cell]:
    """Each optimiser at its own rate, and some at others, for the first network."""
    return [
        Cell(networks[0], objective, optimizer=optimizer, factor=factor)
        for optimizer, factor, objective in itertools.product(
            LEARNING_RATES, RATES, ("classify", "hide")
        )
        if factor == 1 or optimizer in ("adam", "sign")
    ]


def plan(networks: Sequence[str]) -> list[Cell]:
    """Every cell, once; the first network's tables are in full, of the others there is `paper`."""
    parts = (paper, factorial, ratios, optimisers)
    return list(dict.fromkeys(cell for part in parts for cell in part(networks)))


def draw(count: int) -> list[Item]:
    """The first scenes, drawn once for all cells."""
    items = sources.from_scenes(SEED, count, 224)
    pictures = (item.read() for item in items)
    return [
        item._replace(read=partial(lambda picture: picture, picture))
        for item, picture in zip(items, pictures, strict=True)
    ]


def keep_maps(network: Network, items: list[Item], path: Path) -> None:
    """Writes Grad-CAM of each clean image's top class, by the image's name."""
    pixels = {item.id: jnp.asarray(item.read().pixels, jnp.float32) / 255 for item in items}
    heats = {name: np.asarray(cam.look(network, x, -1)[1]) for name, x in pixels.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **heats)  # type: ignore[arg-type]


def attack(
    cell: Cell, network: Network, items: list[Item], steps: int, batch: int, out: Path
) -> None:
    """Attacks what the cell's run lacks."""
    patch = Patch(cell.size, cell.ratio, cell.position)
    how = Attack(cell.objective, steps, cell.optimizer, cell.rate)
    described = campaign.describe([network], patch, how, {"seed": SEED, "scenes": len(items)})
    journal = Journal(out / cell.folder, described, resume=True)
    if len(journal.done) == len(items):
        journal.release()
        return
    with ConsoleProgress(len(items), len(journal.done)) as watch:
        watch.bar.set_description(str(cell.folder))
        for _ in campaign.run(
            journal, network, items, patch, how, batch=batch, watch=watch,
            write_artifacts=False,  # six pictures an image take as long as many steps
        ):  # fmt: skip
            pass
    journal.close()
