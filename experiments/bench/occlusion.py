"""Occlusion through the incremental engine beside the naive loop, in time and in value.

    python -m experiments.bench.occlusion --networks vgg19

Each image with a window covered is one evaluation. Naive: the whole network, for a batch of as many
images as a row has windows, which is also what the incremental engine takes at a time. Random
weights, one image, no compilation in the times; the median of the repeats. `predicted` is the ratio
of the multiply-adds.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.work import multiply_adds
from gcpatch import occlusions
from gcpatch.networks import Network, random

HEAD = (
    "network", "windows", "naive", "incremental", "measured", "predicted", "largest difference",
)  # fmt: skip


def covered(image: jax.Array, window: int, stride: int) -> list[jax.Array]:
    """The images with a black window, a row of windows `[columns, h, w, 3]` at a time."""
    rows, columns = (occlusions._places(length, window, stride) for length in image.shape[:2])
    return [
        jnp.stack([image.at[i : i + window, j : j + window].set(0) for j in columns]) for i in rows
    ]


def predicted(network: Network, image: jax.Array, window: int, stride: int) -> float:
    """How many times fewer multiply-adds a window takes."""
    rows, columns = (occlusions._places(length, window, stride) for length in image.shape[:2])
    sliding, starts, _ = occlusions._sliding_of(network, image, rows, columns, window)
    _, memory = jax.eval_shape(sliding.prepare, network, image)
    place = jax.ShapeDtypeStruct((*starts.shape[1:], 2), "int32")
    tile = jax.ShapeDtypeStruct((window, window, 3), image.dtype)
    whole = multiply_adds(lambda network, image: network(image), network, image)
    return whole / multiply_adds(sliding.step, network, memory, tile, place)


def measure(name: str, side: int, window: int, stride: int, repeats: int) -> tuple[str, ...]:
    """A row of the table."""
    network = random(name)
    image = jnp.asarray(np.random.default_rng(0).random((side, side, 3), np.float32))
    run = jax.jit(lambda network, images: network(images))
    batches = covered(image, window, stride)

    def naive() -> np.ndarray:
        logits = np.stack([np.asarray(run(network, images)) for images in batches])
        return float(run(network, image[None])[0, 0]) - logits[..., 0]

    def fast() -> np.ndarray:
        return np.asarray(occlusions.occlusion(network, image, 0, window=window, stride=stride))

    run(network, batches[0]), run(network, image[None]), fast()  # compiled
    slow, quick = [], []
    for _ in range(repeats):  # in turn, so that both see the same machine
        slow.append(timed(naive))
        quick.append(timed(fast))
    losses, heat = slow[-1][1], quick[-1][1]
    before, now = (statistics.median(seconds for seconds, _ in found) for found in (slow, quick))
    difference = np.abs(heat - spread(losses, side, window, stride)).max()
    return (
        name, str(losses.size), f"{before:.2f} s", f"{now:.2f} s", f"{before / now:.1f}x",
        f"{predicted(network, image, window, stride):.1f}x",
        f"{difference:.0e} of {np.abs(losses).max():.0e}",
    )  # fmt: skip


def timed(function: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Seconds, and what the function gives."""
    start = time.perf_counter()
    found = function()
    return time.perf_counter() - start, found


def spread(losses: np.ndarray, side: int, window: int, stride: int) -> np.ndarray:
    """The map `[side, side]`: at each pixel the mean of the windows over it."""
    total, count = np.zeros((side, side)), np.zeros((side, side))
    places = occlusions._places(side, window, stride)
    for i, row in zip(places, losses, strict=True):
        for j, loss in zip(places, row, strict=True):
            total[i : i + window, j : j + window] += loss
            count[i : i + window, j : j + window] += 1
    return total / count


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", default="vgg19", metavar="A,B,...")
    for name, default in (("side", 224), ("window", 16), ("stride", 8), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    print("| " + " | ".join(HEAD) + " |\n" + "| --- " * len(HEAD) + "|")
    for name in options.networks.split(","):
        row = measure(name, options.side, options.window, options.stride, options.repeats)
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
