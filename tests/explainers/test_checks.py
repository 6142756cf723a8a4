import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gcpatch
from gcpatch.errors import UserError
from gcpatch.explainers import checks
from gcpatch.explainers.registry import METHODS

IMAGE = np.random.default_rng(0).random((28, 28, 3), np.float32)


@pytest.mark.parametrize(
    "image, message",
    [
        (np.rint(255 * IMAGE).astype(np.uint8), "is uint8 from .* to 25.; give floats"),
        (255 * IMAGE, r"the image goes from .* to 25.* give floats in \[0, 1\]"),
        (-3 * IMAGE, "the image goes from -"),
        (np.nan * IMAGE, "the image has values that are not finite"),
        (IMAGE[None], r"shape \[1, 28, 28, 3\] instead of \[height, width, 3\]"),
        (IMAGE[..., 0], r"shape \[28, 28\]"),
        (IMAGE.transpose(2, 0, 1), r"shape \[3, 28, 28\]"),
        (IMAGE > 0.5, "is bool"),
    ],
)
def test_what_is_no_image(image, message):
    with pytest.raises(checks.InputError, match=message) as caught:
        checks.image(image)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "label", [-1, 8, np.int64(8), jnp.asarray(8), "lynx", 1.0, True, [1], None]
)
def test_what_is_no_class(tiny, label):
    with pytest.raises(UserError):
        checks.label(tiny, label)


@pytest.mark.parametrize("name", METHODS)
def test_every_explainer_asks(tiny, name):
    for image, label in ((255 * IMAGE, 1), (jnp.nan * IMAGE, 1), (IMAGE, 8), (IMAGE, -1)):
        with pytest.raises(UserError):
            METHODS[name](tiny, image, label)


def test_a_class_may_be_a_name(tiny):
    heat = gcpatch.grad_cam(tiny, IMAGE, tiny.categories[2])
    np.testing.assert_array_equal(heat, gcpatch.grad_cam(tiny, IMAGE, 2))


TYPES = """
import jax, numpy as np, gcpatch
from gcpatch.explainers.registry import METHODS
network, image = gcpatch.load("mini_vgg"), np.zeros((64, 64, 3), np.uint8)
doors = [*METHODS.values(), jax.jit(gcpatch.grad_cam), lambda network, image, label: network(image)]
for door in doors:
    for given in (image, image > 0, image.astype(int), image[None], image[..., 0]):
        try:
            door(network, given, 1)
        except gcpatch.errors.UserError as error:
            assert "give floats in" in str(error) or "instead of [height" in str(error)
        else:
            raise AssertionError((door, given.dtype, given.shape))
"""


def test_types_and_shapes_are_asked_for_where_no_types_are_checked():
    """In a process of its own, because in this one jaxtyping would refuse them first."""
    subprocess.run([sys.executable, "-c", TYPES], check=True)


def test_inside_jit_no_values_are_asked_for(tiny):
    assert jax.jit(gcpatch.grad_cam)(tiny, 300 * IMAGE, 1).shape == (14, 14)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats_are_taken_as_they_are_without_a_warning(tiny, kind):
    heat = gcpatch.grad_cam(tiny, checks.image(IMAGE.astype(kind)), 1)
    assert heat.dtype == np.float32 and heat.shape == (14, 14)


def test_a_nan_in_a_large_array_is_found():
    large = jnp.ones((300, 300, 3)).at[7, 9, 1].set(jnp.nan)
    with pytest.raises(checks.InputError, match="not finite"):
        checks.image(large)
