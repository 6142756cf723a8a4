"""Occlusion through the incremental engine beside the naive loop, in time and in value.

    python -m experiments.bench.occlusion --networks mini_vgg --side 64
    python -m experiments.bench.occlusion --networks vgg19 --rows 3

Each image with a window covered is one evaluation: naive, of the whole network, image by image or
for a batch of as many images as a row has windows; incremental, of what the window reaches, a row
at a time too. Random weights, random pixels, one image, no compilation in the times. All three take
the same rows of windows, in turn, and `--rows` leaves some out; what is printed is for all rows,
as seconds on the clock and, in brackets, of processor time, which other work on the machine
disturbs less. The ratios are to the faster of the naive loops; `predicted` is that of the
multiply-adds. `difference` is the largest of any logit.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gcpatch.explainers import occlusion
from gcpatch.interpreters.work import multiply_adds
from gcpatch.networks import random

COLUMNS = (
    "network",
    "windows",
    "timed",
    "naive, one by one",
    "naive, a row",
    "incremental",
    "on the clock",
    "processor time",
    "predicted",
    "difference",
)


def measure(name: str, side: int, window: int, stride: int, rows: int) -> dict[str, Any]:
    """A row of the table."""
    network = random(name)
    image = jnp.asarray(np.random.default_rng(0).random((side, side, 3), np.float32))
    windows = occlusion.windows_over(network, image, window=window, stride=stride)
    places, tile = windows.rows, jnp.zeros((window, window, 3))
    run = jax.jit(lambda network, images: network(images))

    def covered(row: int) -> jax.Array:
        top = slice(places[row], places[row] + window)
        return jnp.stack([image.at[top, left : left + window].set(0) for left in places])

    ways: tuple[Callable[[int, jax.Array], jax.Array], ...] = (
        lambda row, images: jnp.concatenate([run(network, one[None]) for one in images]),
        lambda row, images: run(network, images),
        lambda row, images: windows.covered(row, tile),
    )
    chosen = np.linspace(0, len(places) - 1, min(rows, len(places))).round().astype(int)
    for way in ways:
        way(0, covered(0)).block_until_ready()  # compiled
    seconds, difference = np.zeros((len(ways), 2)), 0.0
    for row in chosen:
        images, found = covered(row).block_until_ready(), []
        for i, way in enumerate(ways):
            before = np.array((time.perf_counter(), time.process_time()))
            found.append(way(row, images).block_until_ready())
            seconds[i] += np.array((time.perf_counter(), time.process_time())) - before
        difference = max(difference, float(jnp.abs(found[1] - found[2]).max()))
    seconds *= len(places) / len(chosen)
    clock, processor = seconds[:2].min(0) / seconds[2]
    whole = multiply_adds(lambda network, image: network(image), network, image)
    place = jax.ShapeDtypeStruct((*windows.slid.columns.shape[1:], 2), "int32")
    reached = multiply_adds(windows.slid.program.run, network, windows.memory, tile, place)
    values = (
        name,
        len(places) ** 2,
        len(places) * len(chosen),
        *(f"{clock:.2f} s ({processor:.2f} s)" for clock, processor in seconds),
        f"{clock:.1f}x",
        f"{processor:.1f}x",
        f"{whole / reached:.1f}x",
        f"{difference:.0e}",
    )
    return dict(zip(COLUMNS, values, strict=True))


def main() -> None:
    """Prints a table and, with `--out`, writes it and the settings as json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", default="vgg19", metavar="A,B,...")
    for name, default in (("side", 224), ("window", 16), ("stride", 8), ("rows", 10**6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, help="a json file")
    options = parser.parse_args()
    settings = {key: getattr(options, key) for key in ("side", "window", "stride")}
    print("| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|")
    found = []
    for name in options.networks.split(","):
        found.append(measure(name, **settings, rows=options.rows))
        print("| " + " | ".join(map(str, found[-1].values())) + " |", flush=True)
    if options.out:
        machine = {"device": jax.devices()[0].device_kind, "machine": platform.machine()}
        document = {**machine, "jax": jax.__version__, **settings, "rows": found}
        options.out.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
