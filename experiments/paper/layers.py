"""Table 1: the layer whose map Grad-CAM draws, and how many of its cells lie under a patch.

    python -m experiments.paper.layers

Needs no run: the zoo knows the layers, their shapes the cells.
"""

import jax
import jax.numpy as jnp

from experiments.paper import findings
from experiments.paper.findings import Check, Finding
from experiments.paper.study import IMAGE_SIZE, TITLES, Study
from gcpatch.attacks.blending import coverage
from gcpatch.attacks.regions import Patch
from gcpatch.networks import PAPER, Network, create
from gcpatch.report.export import write_export

TITLE = "Table 1: target layers, and algorithm 1's cells"
CLAIM = (
    "Grad-CAM explains layer 35 or 51 of the VGGs' features, and block 2 of layer4. A patch of 64 "
    "pixels lies over 4 x 4 cells of the map, one of 32 pixels over 2 x 2 (algorithm 1, lines "
    "16 to 20)."
)
PRINTED = dict(zip(TITLES, ("features.35", "features.51", "layer4.2", "layer4.2"), strict=True))
CELLS = {64: 16, 32: 4}


def experiment(study: Study) -> Finding:
    """Compares layers and cells with those of the full-size networks; lists those that ran."""
    lines, layers, counts = [], [], []
    for title, name in zip(TITLES, PAPER, strict=True):
        network, ran = create(name), create(study.networks[title])
        layer, shape = network.resolve(), _map(network)
        under = {size: _cells(shape, Patch(size)) for size in CELLS}
        few = " and ".join(f"{cells:g}" for cells in under.values())
        layers.append(Check(f"{title} has {layer}", layer == PRINTED[title]))
        counts.append(Check(f"{title} has {few} under them", under == CELLS))
        lines.append(
            {
                "network": title,
                "in the paper": PRINTED[title],
                "in the zoo": layer,
                "map": _by(shape),
                **{f"cells under {size} pixels": f"{cells:g}" for size, cells in under.items()},
                "here ran": f"{ran.name}, {ran.resolve()}, {_by(_map(ran))}",
            }
        )
    table = study.out / "table-01.csv"
    write_export(lines, table)
    verdicts = [findings.judge(layers, "layers: "), findings.judge(counts, "cells: ")]
    return Finding(TITLE, CLAIM, verdicts, [], table, lines)


def _map(network: Network) -> tuple[int, ...]:
    """Height and width of the map of the paper's images."""
    image = jax.ShapeDtypeStruct((IMAGE_SIZE, IMAGE_SIZE, 3), "float32")
    return jax.eval_shape(lambda n, x: n.split()[0](x), network, image).shape[:2]


def _cells(shape: tuple[int, ...], patch: Patch) -> float:
    """How many cells a patch covers, parts of them counted as such."""
    image = IMAGE_SIZE, IMAGE_SIZE
    corner = jnp.array(patch.corner(*image))
    return float(coverage(shape, image, corner, (patch.size, patch.size)).sum())


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


if __name__ == "__main__":
    findings.main(__doc__, experiment)
