"""A network and a loss of your own: one patch for many images, saved, and applied elsewhere.

    python -m experiments.walks.own_network

Trains a small network of Flax in seconds, makes one patch for all images, saves it, and has another
process lay it over the same images and judge them: both come to the same verdicts.
"""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import gcpatch
from experiments.walks.steps import options_of
from gcpatch.data.images import write_png

CLASSES, SIZE, TARGET = ("red", "green", "blue"), 64, "blue"
WEIGHTS = "GCPATCH_WALK_WEIGHTS"  # the environment's name of the file that `network` reads


class Balls(nnx.Module):
    """Tells the colour of a ball: three convolutions, the mean of the last map, a linear layer."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv1 = nnx.Conv(3, 8, (5, 5), strides=2, rngs=rngs)
        self.conv2 = nnx.Conv(8, 16, (3, 3), strides=2, rngs=rngs)
        self.conv3 = nnx.Conv(16, 16, (3, 3), rngs=rngs)
        self.fc = nnx.Linear(16, len(CLASSES), rngs=rngs)

    def __call__(self, image):
        """The logits of images `[..., height, width, 3]`."""
        for layer in (self.conv1, self.conv2, self.conv3):
            image = nnx.relu(layer(image))
        return self.fc(image.mean((-3, -2)))


def draw(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Balls of three colours, at the upper left of a grey ground, and their classes."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(0.4, 0.5, (count, SIZE, SIZE, 3)).astype(np.float32)
    labels = rng.integers(0, len(CLASSES), count)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for image, label in zip(images, labels, strict=True):
        (row, column), radius = rng.uniform(16, 30, 2), rng.uniform(7, 10)
        ball = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        image[ball] *= 0.6
        image[ball, label] += 0.5
    return images, labels


def train(steps: int = 60) -> Balls:
    """The network, trained on drawn balls."""
    images, labels = map(jnp.asarray, draw(1, 256))
    graph, weights = nnx.split(Balls())
    adam = optax.adam(3e-3)

    @jax.jit
    def step(weights, state, key):
        def loss(weights):
            chosen = jax.random.choice(key, len(images), (32,))
            logits = nnx.merge(graph, weights)(2 * images[chosen] - 1)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen]).mean()

        updates, state = adam.update(jax.grad(loss)(weights), state)
        return optax.apply_updates(weights, updates), state

    state = adam.init(weights)
    for key in jax.random.split(jax.random.key(0), steps):
        weights, state = step(weights, state, key)
    return nnx.merge(graph, weights)


def adapted(model: Balls) -> gcpatch.Network:
    """The module as gcpatch takes it."""
    half = (0.5, 0.5, 0.5)
    return gcpatch.adapt(model, categories=CLASSES, mean=half, std=half, size=SIZE, name="balls")


def network() -> gcpatch.Network:
    """What `--model experiments.walks.own_network:network` means, in any process."""
    graph, empty = nnx.split(Balls())
    with np.load(os.environ[WEIGHTS]) as file:
        leaves = [jnp.asarray(array) for array in file.values()]
    return adapted(nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(empty), leaves)))


def below(evidence: gcpatch.Evidence) -> jax.Array:
    """A loss of one's own: the share of the heat that is not in the lower half of the map."""
    lower = jnp.arange(evidence.heat.shape[0])[:, None] >= evidence.heat.shape[0] // 2
    return 1 - (evidence.heat * lower).sum() / (evidence.heat.sum() + 1e-9)


def main() -> None:
    """The command line; see the top of this file."""
    parser = options_of(__doc__, "own")
    parser.add_argument("--steps", type=int, default=100, help="of the patch (100)")
    options = parser.parse_args()
    files = [options.out / "photographs" / f"{i:04d}.png" for i in range(options.count)]
    files[0].parent.mkdir(parents=True, exist_ok=True)
    for file, image in zip(files, draw(2, options.count)[0], strict=True):
        write_png(file, np.rint(image * 255).astype(np.uint8))
    images = np.stack([gcpatch.read_image(file, SIZE) for file in files]).astype(np.float32) / 255

    # 1. The network, and one patch for all images that moves the heat to the lower half.
    model = train()
    np.savez(options.out / "weights.npz", *jax.tree.leaves(nnx.state(model)))
    balls, region = adapted(model), gcpatch.Patch(size=24, position="bottom-right")
    attack = gcpatch.Attack(objective=below, steps=options.steps)
    made = gcpatch.universal([balls], images, [TARGET] * len(images), region, attack)
    made.patch.save(options.out / "patch.npz")

    # 2. What this process says of the images with the patch, in 8 bits as any PNG.
    patched = np.rint(made.patch.apply(images) * 255).astype(np.uint8)
    here = np.asarray(balls(patched.astype(np.float32) / 255)).argmax(-1)

    # 3. What another one says that has only the files.
    command = [sys.executable, "-m", "gcpatch", "apply", options.out / "patch.npz", *files]
    command += ["--model", "experiments.walks.own_network:network"]
    command += ["--out", options.out / "applied", "--resume"]
    weights = str((options.out / "weights.npz").resolve())
    subprocess.run(list(map(str, command)), check=True, env=os.environ | {WEIGHTS: weights})
    records = gcpatch.read_run(options.out / "applied").records
    there = {Path(one["source"]): one["png"]["id"] for one in records if not one["skipped"]}
    same = sum(
        there[file] == label for file, label in zip(files, here, strict=True) if file in there
    )
    print(f"taken for {TARGET}: {np.mean(here == CLASSES.index(TARGET)):.0%}")
    print(f"both processes say the same of {same} of {len(there)} images")


if __name__ == "__main__":
    main()
