"""A network and a loss of your own: one patch for many images, saved, and applied elsewhere.

    python -m experiments.walks.own_network

Trains a small network of Flax in seconds, makes one patch for all scenes, saves it, and has another
process lay it over the same scenes and judge them: both come to the same verdicts.
"""

import argparse
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
from experiments.walks.steps import draw_photographs
from gcpatch.data import scenes

CLASSES, SIZE, TARGET = ("stripes", "dots", "blotches"), 96, "dots"
WEIGHTS = "GCPATCH_WALK_WEIGHTS"  # the environment's name of the file that `network` reads


class Small(nnx.Module):
    """Three convolutions, the mean of the last map, and a linear layer."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(3, 16, (5, 5), strides=2, rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.conv3 = nnx.Conv(32, 32, (3, 3), rngs=rngs)
        self.fc = nnx.Linear(32, len(CLASSES), rngs=rngs)

    def __call__(self, image):
        """The logits of images `[..., height, width, 3]`."""
        for layer in (self.conv1, self.conv2, self.conv3):
            image = nnx.relu(layer(image))
        return self.fc(image.mean((-3, -2)))


def train(steps: int, count: int = 320) -> Small:
    """Small, trained on scenes of three classes."""
    drawn = scenes.draw_batch(1, count, size=SIZE)
    names = [scenes.CATEGORIES[label] for label in drawn.label]
    ours = np.asarray([name in CLASSES for name in names])
    images = drawn.image[ours]
    labels = jnp.asarray([CLASSES.index(name) for name in names if name in CLASSES])
    graph, weights = nnx.split(Small(nnx.Rngs(0)))
    adam = optax.adam(3e-3)

    @jax.jit
    def step(weights, state, key):
        def loss(weights):
            chosen = jax.random.choice(key, len(images), (32,))
            logits = nnx.merge(graph, weights)(2 * images[chosen] - 1)
            each = optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen])
            return each.mean()

        updates, state = adam.update(jax.grad(loss)(weights), state)
        return optax.apply_updates(weights, updates), state

    state = adam.init(weights)
    for key in jax.random.split(jax.random.key(0), steps):
        weights, state = step(weights, state, key)
    return nnx.merge(graph, weights)


def adapted(model: Small) -> gcpatch.Network:
    """The module as gcpatch takes it."""
    half = (0.5, 0.5, 0.5)
    return gcpatch.adapt(model, categories=CLASSES, mean=half, std=half, size=SIZE, name="small")


def save(model: Small, path: Path) -> None:
    """Writes the parameters, in their order in the module."""
    leaves = jax.tree.leaves(nnx.state(model))
    np.savez(path, *leaves)


def network() -> gcpatch.Network:
    """What `--model experiments.walks.own_network:network` means, in any process."""
    graph, empty = nnx.split(Small(nnx.Rngs(0)))
    with np.load(os.environ[WEIGHTS]) as file:
        leaves = [jnp.asarray(array) for array in file.values()]
    return adapted(nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(empty), leaves)))


def below(evidence: gcpatch.Evidence) -> jax.Array:
    """A loss of one's own: the share of the heat that is not in the lower half of the map."""
    lower = jnp.arange(evidence.heat.shape[0])[:, None] >= evidence.heat.shape[0] // 2
    return 1 - (evidence.heat * lower).sum() / (evidence.heat.sum() + 1e-9)


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps", type=int, default=150, help="of training, and of the patch (150)"
    )
    parser.add_argument("--count", type=int, default=12, help="how many scenes to draw (12)")
    parser.add_argument("--out", type=Path, default=Path("runs/walks/own"), help="where to")
    options = parser.parse_args()
    photographs = draw_photographs(options.out / "photographs", options.count, CLASSES, SIZE)
    files = sorted(photographs.rglob("*.png"))
    images = np.stack([gcpatch.read_image(file, SIZE) for file in files]).astype(np.float32) / 255

    # 1. The network, and one patch for all images that moves the heat to the lower half.
    model = train(options.steps)
    save(model, options.out / "weights.npz")
    small, region = adapted(model), gcpatch.Patch(size=32)
    attack = gcpatch.Attack(objective=below, steps=options.steps)
    made = gcpatch.universal([small], images, [TARGET] * len(images), region, attack)
    made.patch.save(options.out / "patch.npz")

    # 2. What this process says of the images with the patch, in 8 bits as any PNG.
    patched = np.rint(made.patch.apply(images) * 255).astype(np.uint8)
    here = np.asarray(small(patched.astype(np.float32) / 255)).argmax(-1)

    # 3. What another one says that has only the files.
    command = [sys.executable, "-m", "gcpatch", "apply", options.out / "patch.npz", photographs]
    command += ["--model", f"{__spec__.name}:network", "--out", options.out / "applied", "--resume"]
    weights = str((options.out / "weights.npz").resolve())
    subprocess.run(list(map(str, command)), check=True, env=os.environ | {WEIGHTS: weights})
    records = {Path(r["source"]): r for r in gcpatch.read_run(options.out / "applied").records}
    compared = [(records[file], label) for file, label in zip(files, here, strict=True)]
    compared = [(record, label) for record, label in compared if not record["skipped"]]
    same = sum(record["png"]["id"] == label for record, label in compared)
    fooled = sum(record["fooled_class"] for record, _ in compared)
    print(f"{fooled} of {len(compared)} images are taken for {TARGET}")
    print(f"both processes say the same of {same} of {len(compared)} images")


if __name__ == "__main__":
    main()
