"""Trains a network of the zoo on procedural scenes.

    python -m experiments.train mini_vgg_bn --steps 2000 --out runs/train

Writes an Orbax checkpoint of the training state as it goes (run the same command again to go on),
and at the end the weights, rounded to float16, as `<out>/<name>.npz` with the accuracy on 2,000
scenes of a seed that training never sees; beside them `<out>/networks/<name>`, which
`gcpatch attack --model` takes. Scenes are drawn once; every step shifts them around
the picture's edges and mirrors them, so that evidence counts wherever it lies. Most steps see a
quarter of the picture, with the object in it, which costs a quarter; the last ones see all of it.
"""

import argparse
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from tqdm import tqdm

from gcpatch.data import scenes
from gcpatch.networks import NAMES, Network, create, fill, parameters, random
from gcpatch.networks.checkpoints import save

TRAIN_SEED, TEST_SEED = 1, 2
SIZE, WINDOW = 224, 112


class Training(NamedTuple):
    """All that a step changes."""

    weights: nnx.State
    statistics: nnx.State
    optimizer: optax.OptState


class Pool(NamedTuple):
    """Scenes, with the place of each object's middle."""

    images: UInt8[np.ndarray, "n 224 224 3"]
    labels: Int[np.ndarray, " n"]
    centres: Int[np.ndarray, "n 2"]


@cache
def draw(seed: int, count: int) -> Pool:
    """The first `count` scenes of a seed."""
    parts = []
    for start in tqdm(range(0, count, 64), desc="drawing scenes", unit_scale=64, unit=" scenes"):
        batch = scenes.draw_batch(seed, min(64, count - start), start=start)
        images = np.rint(np.asarray(batch.image) * 255).astype(np.uint8)
        centres = [np.argwhere(mask).mean(0).astype(int) for mask in np.asarray(batch.mask)]
        parts.append(Pool(images, np.asarray(batch.label), np.asarray(centres)))
    return Pool(*map(np.concatenate, zip(*parts, strict=True)))


def augment(
    key: PRNGKeyArray, image: Float[Array, "h w 3"], centre: Int[Array, "2"], size: int
) -> Float[Array, "size size 3"]:
    """A window of the picture with the object's middle anywhere in it, mirrored half the time."""
    place_key, flip_key = jax.random.split(key)
    shift = jax.random.randint(place_key, (2,), 0, size) - centre
    image = jnp.roll(image, shift, (0, 1))[:size, :size]
    return jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)


def fresh(name: str) -> Network:
    """A network of the scenes' classes with seeded random weights."""
    network, wide = create(name, scenes.CATEGORIES), parameters(random(name))
    values = {key: np.asarray(wide[key]) for key in wide}
    cut = {key: tuple(map(slice, leaf.shape)) for key, leaf in parameters(network).items()}
    return fill(network, {key: values[key][cut[key]] for key in cut})


def make_step(graph: nnx.GraphDef, optimizer: optax.GradientTransformation):
    """One jitted step: (state, key, scenes, window size) -> (state, loss, accuracy)."""

    @partial(jax.jit, donate_argnums=0, static_argnames="size")
    def step(state: Training, key: PRNGKeyArray, pool: Pool, size: int):
        keys = jax.random.split(key, len(pool.labels))
        windows = partial(augment, size=size)
        images = jax.vmap(windows)(keys, jnp.asarray(pool.images) / 255, jnp.asarray(pool.centres))
        labels = pool.labels

        def loss(weights):
            network = nnx.merge(graph, weights, state.statistics, copy=True)
            network.train()
            logits = network(images)
            statistics = nnx.state(network, nnx.BatchStat)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), (statistics, (logits.argmax(-1) == labels).mean())

        (value, (statistics, accuracy)), gradient = jax.value_and_grad(loss, has_aux=True)(
            state.weights
        )
        updates, moments = optimizer.update(gradient, state.optimizer, state.weights)
        weights = optax.apply_updates(state.weights, updates)
        return Training(weights, statistics, moments), value, accuracy

    return step


def train_head(network: Network, pool: Pool, steps: int) -> Network:
    """The network with its head trained further, on what the trunk makes of whole pictures.

    The trunk runs once for each scene; after that a step costs next to nothing, and shifting the
    maps by cells stands for shifting the pictures. Parameters of the trunk have no gradient.
    """
    graph, weights, statistics = nnx.split(network, nnx.Param, nnx.BatchStat)  # type: ignore[misc]
    look = jax.jit(lambda network, images: network.split()[0](images / 255.0).astype(jnp.float16))
    batches = tqdm(range(0, len(pool.labels), 100), desc=f"{network.name}: maps of all scenes")
    maps = np.concatenate([np.asarray(look(network, pool.images[i : i + 100])) for i in batches])
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps))
    moments = optimizer.init(weights)

    @jax.jit
    def step(weights, moments, key, maps, labels):
        shifts = jax.random.randint(key, (len(labels), 2), 0, maps.shape[1])
        maps = jax.vmap(lambda x, shift: jnp.roll(x, shift, (0, 1)))(maps, shifts)

        def loss(weights):
            logits = nnx.merge(graph, weights, statistics).split()[1](maps.astype(jnp.float32))
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(weights)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(weights, updates), moments, value

    for i in (bar := tqdm(range(steps), desc=f"{network.name}: head")):
        rows = np.random.default_rng((TRAIN_SEED, i)).integers(0, len(maps), 128)
        key = jax.random.fold_in(jax.random.key(TRAIN_SEED), i)
        weights, moments, value = step(weights, moments, key, maps[rows], pool.labels[rows])
        if i % 20 == 0:
            bar.set_postfix(loss=f"{value:.3f}")
    return nnx.merge(graph, weights, statistics)


def accuracy(network: Network, pool: Pool) -> float:
    """The share of scenes whose top-1 class is their label."""
    predict = jax.jit(lambda network, x: network(x / 255.0).argmax(-1))
    batches = range(0, len(pool.labels), 100)
    found = [np.asarray(predict(network, pool.images[i : i + 100])) for i in batches]
    return float(np.mean(np.concatenate(found) == pool.labels))


def train(
    name: str,
    steps: int,
    windowed: int,
    head_steps: int,
    count: int,
    batch: int,
    rate: float,
    out: Path,
) -> float:
    """Trains, saves and tests one network; returns its accuracy on held-out scenes."""
    network = fresh(name)
    graph, weights, statistics = nnx.split(network, nnx.Param, nnx.BatchStat)  # type: ignore[misc]
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 20), steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.02)
    )
    state = Training(weights, statistics, optimizer.init(weights))
    step = make_step(graph, optimizer)
    pool = draw(TRAIN_SEED, count)
    with ocp.CheckpointManager(
        (out / name).absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=1)
    ) as manager:
        done = manager.latest_step() or 0
        if done:
            state = manager.restore(done, args=ocp.args.StandardRestore(state))
        bar = tqdm(range(done, steps), initial=done, total=steps, desc=name)
        for i in bar:
            rows = np.random.default_rng((TRAIN_SEED, i)).integers(0, count, batch)
            key = jax.random.fold_in(jax.random.key(TRAIN_SEED), i)
            size = WINDOW if i < windowed else SIZE
            state, loss, share = step(state, key, Pool(*(part[rows] for part in pool)), size)
            if i % 20 == 0:
                bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{share:.2f}")
            if (i + 1) % 500 == 0 or i + 1 == steps:
                manager.save(i + 1, args=ocp.args.StandardSave(state))
    network = nnx.merge(graph, state.weights, state.statistics)
    if head_steps:
        network = train_head(network, pool, head_steps)
    half = {key: np.asarray(leaf, np.float16) for key, leaf in parameters(network).items()}
    np.savez(out / f"{name}.npz", **half)  # type: ignore[arg-type]
    rounded = {key: leaf.astype(np.float32) for key, leaf in half.items()}
    trained = fill(create(name, scenes.CATEGORIES), rounded)
    save(trained, out / "networks" / name, "scenes")
    return accuracy(trained, draw(TEST_SEED, 2000))


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME")
    parser.add_argument("--steps", type=int, default=800, help="optimiser steps (default 800)")
    parser.add_argument("--windowed", type=int, default=560, help="steps on windows (default 560)")
    parser.add_argument("--head-steps", type=int, default=0, help="further steps of the head alone")
    parser.add_argument("--scenes", type=int, default=8000, help="scenes to draw (default 8000)")
    parser.add_argument("--batch", type=int, default=64, help="scenes a step (default 64)")
    parser.add_argument(
        "--learning-rate", type=float, default=3e-3, help="peak rate (default 3e-3)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/train"), help="folder to write to")
    options = parser.parse_args()
    for name in options.names:
        share = train(
            name,
            options.steps,
            options.windowed,
            options.head_steps,
            options.scenes,
            options.batch,
            options.learning_rate,
            options.out,
        )
        print(f"{name}: {share:.2%} of 2,000 held-out scenes")


if __name__ == "__main__":
    main()
