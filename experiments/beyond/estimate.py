"""How long the cells will take at most, from a few steps timed here."""

from collections import Counter
from collections.abc import Mapping, Sequence

from experiments.bench.work import trunk_work
from experiments.beyond.cells import Cell
from experiments.beyond.full import Recipe
from experiments.train import SIZE, WINDOW
from gcpatch.evaluation import bench
from gcpatch.networks import random


def estimate(
    left: Sequence[Cell], untrained: Mapping[str, Recipe], scenes: int, steps: int, batch: int
) -> list[str]:
    """A line for each network: at most so long for its cells, and for one round of its training.

    The pace is that of a 64-pixel patch where every scene takes all steps. A scene in training
    costs three passes through the whole trunk, an image-step two through what the patch reaches.
    """
    lines = []
    for name, count in Counter(cell.network for cell in left).items():
        network = random(name)
        pace = bench.measure(network, 64, batch, "gcpatch-incremental", 1).image_steps_per_second
        minutes = count * scenes * steps / pace / 60
        line = f"{name}: {count} cells at {pace:.0f} image-steps/s, at most {minutes:.0f} min"
        if name in untrained:
            full, reached = trunk_work(network, 64)
            recipe = untrained[name]
            whole = recipe.steps - recipe.windowed * (1 - (WINDOW / SIZE) ** 2)
            minutes = whole * recipe.batch * 1.5 * full / reached / pace / 60
            line += f"; training about {minutes:.0f} min a round"
        lines.append(line)
    return lines
