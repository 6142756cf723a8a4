"""Explanations of many images: one compiled program for a batch, whatever the methods."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gcpatch.errors import UserError
from gcpatch.explainers import checks
from gcpatch.explainers.registry import METHODS, ONE_BY_ONE, compiled
from gcpatch.networks import Network
from gcpatch.networks.network import ArrayLike
from gcpatch.settings import choose


class Explained(NamedTuple):
    """What a network says of a batch of images, and why.

    Attributes:
        logits: of each image.
        labels: the class of each image that is explained.
        maps: of each method the maps, at the method's resolution.
    """

    logits: Float[np.ndarray, "n classes"]
    labels: Int[np.ndarray, " n"]
    maps: dict[str, Float[np.ndarray, "n h2 w2"]]


def explain(
    network: Network,
    images: Float[ArrayLike, "n h w 3"],
    labels: Int[ArrayLike, " n"] | Sequence[int | str],
    method: str = "grad-cam",
    *,
    batch: int = 16,
) -> Float[np.ndarray, "n h2 w2"]:
    """The maps of many images: those of the explainer with its default settings, one by one.

    Args:
        network: the network to explain.
        images: RGB in [0, 1].
        labels: the class of each image that is explained, by ID or name.
        method: the explainer's name on the command line, a key of `registry.METHODS`.
        batch: how many images are explained at a time.

    Raises:
        UserError: there is no such method, the images are no floats in [0, 1], or the labels no
            classes, one for each.
    """
    choose("method", method)
    if batch < 1:
        raise UserError(f"batch is {batch}; it must be at least 1")
    pixels = checks.images(images)
    known = checks.classes(network, labels, count=len(pixels), what="label")
    batch = min(batch, len(pixels))
    found = []
    for start in range(0, len(pixels), batch):
        part = slice(start, start + batch)
        found.append(explain_batch(network, pixels[part], known[part], (method,), size=batch))
    return np.concatenate([one.maps[method] for one in found])


def explain_batch(
    network: Network,
    images: Float[ArrayLike, "n h w 3"],
    labels: Sequence[int | None] | Int[np.ndarray, " n"],
    methods: tuple[str, ...],
    *,
    size: int,
) -> Explained:
    """Logits and maps of a batch, by one program for every batch of up to `size` images.

    Args:
        network: the network to explain.
        images: RGB in [0, 1].
        labels: the class of each image that is explained; None for its top class.
        methods: keys of `registry.METHODS`.
        size: the largest batch.
    """
    count, filled = len(images), np.minimum(np.arange(size), len(images) - 1)
    pixels = jnp.asarray(images)
    if count < size:  # which would be another program
        pixels = pixels[filled]
    top = np.array([label is None for label in labels])[filled]
    known = np.array([0 if label is None else label for label in labels], np.int32)[filled]
    together = tuple(name for name in methods if name not in ONE_BY_ONE)
    logits, explained, maps = jax.tree.map(
        lambda found: np.asarray(found)[:count], _together(network, pixels, known, top, together)
    )
    for name in methods:
        if name not in together:
            pairs, one = zip(pixels, map(jnp.asarray, explained), strict=False), compiled(name)
            maps[name] = np.stack([one(network, image, int(label)) for image, label in pairs])
    return Explained(logits, explained, {name: maps[name] for name in methods})


@partial(jax.jit, static_argnames="methods")
def _together(
    network: Network,
    images: Float[Array, "n h w 3"],
    labels: Int[ArrayLike, " n"],
    top: Bool[ArrayLike, " n"],
    methods: tuple[str, ...],
):
    def one(image, label, top):
        logits = network(image)
        label = jnp.where(top, logits.argmax(), label)
        return logits, label, {name: METHODS[name](network, image, label) for name in methods}

    return jax.vmap(one)(images, jnp.asarray(labels), jnp.asarray(top))
