"""Hidden, or only moved aside: how far from the patch a network can put its evidence.

    python -m experiments.receptive_field --network photos --images photos.csv \\
        --layers features.15,features.22,features.29 --out runs/receptive
    python -m experiments.receptive_field --network mini_vgg --scenes 16 --out runs/receptive

Each call attacks with `hide`, as the paper has it and with one ring of cells, and adds a line for
each layer to `OUT/rows.csv`; `OUT/receptive_field.png` is drawn of all lines that are there. A
layer's receptive field is what of the image the gradient of its middle cell is of.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.plots import PercentFormatter, plt
from experiments.real import Cell, Records, add_images, attack, images_of, right
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.cli.inputs import load_network
from gcpatch.errors import UserError
from gcpatch.evaluation.intervals import rate
from gcpatch.networks import Network

FIELDS = ("network", "layer", "field", "cell", "ring", "images", "both", "with_ring", "empty")
RINGS = (0, 1)
COLOURS = {0: "#0072b2", 1: "#d55e00"}  # Okabe and Ito's


def receptive_field(network: Network, layer: str | None) -> int:
    """How many rows of the image a cell in the middle of a layer's map depends on."""
    trunk, _ = network.split(layer)
    side = network.preprocessing.size
    image = jnp.asarray(np.random.default_rng(0).random((side, side, 3)), jnp.float32)

    def middle(image: Float[Array, "h w 3"]) -> Float[Array, ""]:
        values = trunk(image)
        return values[values.shape[0] // 2, values.shape[1] // 2].sum()

    return int(jnp.any(jax.jit(jax.grad(middle))(image) != 0, (1, 2)).sum())


def line(network: Network, layer: str | None, ring: int, records: Records) -> dict[str, Any]:
    """What became of one layer's images, as a row of the table."""
    found = list(right(records).values())
    trunk, _ = network.split(layer)
    side = network.preprocessing.size
    cells = jax.eval_shape(trunk, jax.ShapeDtypeStruct((side, side, 3), jnp.float32)).shape[0]
    aside = [r["fooled_class"] and r["fooled_explanation_ring"] for r in found]
    values = (
        network.name,
        network.resolve(layer),
        receptive_field(network, layer),
        side / cells,
        ring,
        len(found),
        sum(r["fooled_both"] for r in found),
        sum(aside),
        sum(r["map_empty"] for r in found),
    )
    return dict(zip(FIELDS, values, strict=True))


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Success with the ring, a line for each layer, the widest receptive field at the top."""
    layers = sorted({(_cells(row), _label(row)) for row in rows})
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.55 * len(layers)), layout="constrained")
    for ring in RINGS:
        some = sorted((r for r in rows if int(r["ring"]) == ring), key=_cells)
        shares = [rate(int(row["with_ring"]), int(row["images"])) for row in some]
        values = np.asarray([share.value for share in shares])
        ends = np.asarray([(share.low, share.high) for share in shares]).T
        names = [label for _, label in layers]
        axes.errorbar(
            values,
            [names.index(_label(row)) + (0.15 if ring else -0.15) for row in some],
            xerr=np.abs(ends - values),
            fmt="os"[ring],
            color=COLOURS[ring],
            capsize=3,
            label="hide with one ring" if ring else "hide, as the paper",
        )
    axes.set_yticks(range(len(layers)), [label for _, label in layers], fontsize=9)
    axes.set(xlabel="class fooled, and hidden with one ring of cells", xlim=(-0.03, 1.03))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(RINGS), frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _cells(row: dict[str, str]) -> float:
    """The receptive field in cells of the map."""
    return int(row["field"]) / float(row["cell"])


def _label(row: dict[str, str]) -> str:
    return (
        f"{row['network']}, {row['layer']}\n{row['field']} pixels, {_cells(row):.1f} cells "
        f"of {float(row['cell']):.0f}"
    )


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.receptive_field",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--network", required=True, metavar="NAME", help="as `gcpatch attack --model` takes it")
    add("--layers", metavar="A,B,...", help="the network's target layer if left out")
    add_images(parser)
    add("--steps", type=int, default=300, help="the most steps of an image (300)")
    add("--batch", type=int, default=8, help="images at a time (8)")
    add("--out", type=Path, default=Path("runs/receptive"), help="(runs/receptive)")
    options = parser.parse_args()
    try:
        network = load_network(options.network, None)
        items = images_of(options, network)
        options.out.mkdir(parents=True, exist_ok=True)
        table = options.out / "rows.csv"
        known = list(csv.DictReader(table.open())) if table.is_file() else []
        for layer in (options.layers or network.resolve()).split(","):
            for ring in RINGS:
                how = Attack(ring=ring, steps=options.steps, layer=layer)
                cell = Cell(f"{network.name}-{layer}-{ring}", Patch(64), how)
                records = attack(cell, network, items, options.batch, options.out)
                found = {key: str(v) for key, v in line(network, layer, ring, records).items()}
                known = [row for row in known if _place(row) != _place(found)] + [found]
                with table.open("w", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS)
                    writer.writeheader()
                    writer.writerows(known)
    except UserError as error:
        parser.exit(1, f"{error}\n")
    draw(known, options.out / "receptive_field.png")
    print(table.read_text())


def _place(row: dict[str, str]) -> tuple[str, ...]:
    return row["network"], row["layer"], row["ring"]


if __name__ == "__main__":
    main()
