"""What is asked of images and classes at every public door: a wrong one is one sentence.

What a program knows when it is traced, types and shapes and numbers of Python, is checked always;
the values of arrays only where they are at hand, outside of `jax.jit`, so that nothing is checked
twice.
"""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gcpatch.data import labels
from gcpatch.errors import UserError
from gcpatch.networks import Network

Label: TypeAlias = Int[Array, ""] | int | str
SLACK = 1.0  # what an image may be beyond [0, 1], as noise or a step of a numerical gradient is


class InputError(UserError):
    """An image or a class that cannot be; the message is one sentence that says why."""


def image(values: Any, *, what: str = "the image", slack: float = SLACK) -> Float[Array, "..."]:
    """An image `[h, w, 3]` of floats in [0, 1], give or take `slack`, as a JAX array.

    Raises:
        InputError: it is of another shape or type, or of other values; `what` is its name.
    """
    array = _array(values, what)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise InputError(f"{what} has shape {list(array.shape)} instead of [height, width, 3]")
    return floats(array, what=what, slack=slack)


def images(values: Any, *, what: str = "the batch of images") -> Float[Array, "n h w 3"]:
    """One image or more `[n, h, w, 3]` of floats in [0, 1], as a JAX array.

    Raises:
        InputError: they are of another shape or type, or of other values; `what` is their name.
    """
    array = _array(values, what)
    if array.ndim != 4 or array.shape[-1] != 3 or not len(array):
        raise InputError(
            f"{what} has shape {list(array.shape)} instead of [n, height, width, 3], n over 0"
        )
    return floats(array, what=what)


def classes(network: Network, given: Any, *, count: int, what: str) -> Int[np.ndarray, " n"]:
    """A class of a network for each of `count` images, by ID or name, as IDs.

    Raises:
        InputError: there are not as many; `what` is the name of one.
        LabelError: one is no class; the message says which.
    """
    if np.ndim(given) != 1 or len(given) != count:
        raise InputError(f"there are {count} images; give a list of as many {what}s")
    return labels.as_ids(given, network.categories, what)


def floats(values: Any, *, what: str, slack: float = 0.0) -> Float[Array, "..."]:
    """Floats in [0, 1], give or take `slack`; InputError where they are not."""
    array = _array(values, what)
    known = not isinstance(array, jax.core.Tracer) and array.size > 0
    least, most = (array.min(), array.max()) if known else (0, 1)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(
            f"{what} is {array.dtype} from {least} to {most}; give floats in [0, 1], such as "
            "pixels / 255"
        )
    finite = not known or bool(jnp.isfinite(array).all())  # XLA's minimum may pass a NaN by
    if not finite:
        raise InputError(f"{what} has values that are not finite, from {least} to {most}")
    if not (least >= -slack and most <= 1 + slack):
        raise InputError(f"{what} goes from {least} to {most}; give floats in [0, 1]")
    array = jnp.asarray(array)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _array(values: Any, what: str) -> jax.Array | np.ndarray:
    try:
        return values if isinstance(values, jax.Array) else np.asarray(values)
    except ValueError:
        raise InputError(f"{what} is no array of numbers: its rows differ in length") from None


def label(network: Network, given: Any) -> Array | int:
    """A class of a network, by its ID or name, as an ID.

    Raises:
        InputError: it is no whole number, or there is no such class.
        LabelError: there is no class of this name.
    """
    if isinstance(given, str):
        return labels.find(given, network.categories)
    kind = given if isinstance(given, jax.Array) else np.asarray(given)
    if kind.shape != () or not jnp.issubdtype(kind.dtype, jnp.integer):
        raise InputError(f"the class is {given!r}; give one ID, a whole number, or a name")
    if not isinstance(given, jax.core.Tracer):
        number, last = int(given), len(network.categories) - 1
        if not 0 <= number <= last:
            raise InputError(f"there is no class {number}; {network.name} has 0 to {last}")
    return given
