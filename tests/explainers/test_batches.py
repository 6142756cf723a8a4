"""Maps of many images are those of one image at a time, and what cannot be is one sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gcpatch
from gcpatch.errors import UserError
from gcpatch.explainers import batches, checks
from gcpatch.explainers.registry import ONE_BY_ONE, compiled

IMAGES = np.random.default_rng(0).random((5, 28, 28, 3), np.float32)
LABELS = [2, "b", 0, 1, "c"]
KNOWN = [2, 1, 0, 1, 2]


@pytest.mark.parametrize("method", ["grad-cam", "gradient-x-input", "occlusion"])
def test_each_map_is_that_of_its_image_and_class(tiny, method):
    found = gcpatch.explain(tiny, IMAGES, LABELS, method, batch=2)
    assert found.dtype == np.float32 and np.abs(found).max() > 0
    for heat, image, label in zip(found, IMAGES, KNOWN, strict=True):
        wanted = compiled(method)(tiny, jnp.asarray(image), jnp.asarray(label))
        np.testing.assert_allclose(heat, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_grad_cam_is_what_is_not_named(tiny):
    np.testing.assert_array_equal(
        gcpatch.explain(tiny, IMAGES[:1], [1]), gcpatch.explain(tiny, IMAGES[:1], [1], "grad-cam")
    )


def test_one_program_for_every_batch(tiny):
    before = batches._together._cache_size()
    for count in (5, 4, 3):  # of three images at a time: also two and one
        gcpatch.explain(tiny, IMAGES[:count], LABELS[:count], "hirescam", batch=3)
    assert batches._together._cache_size() == before + 1


def test_several_methods_with_the_top_class_where_none_is_given(tiny):
    methods = ("layercam", "occlusion", "grad-cam")
    logits, labels, maps = batches.explain_batch(
        tiny, IMAGES, [None, 1, 2, 0, None], methods, size=5
    )
    np.testing.assert_allclose(
        logits, jax.jit(type(tiny).__call__)(tiny, IMAGES), rtol=1e-4, atol=1e-4
    )
    assert labels.tolist() == [logits[0].argmax(), 1, 2, 0, logits[4].argmax()]
    assert tuple(maps) == methods and {*ONE_BY_ONE} & {*methods}
    for method in methods:
        np.testing.assert_allclose(
            maps[method], gcpatch.explain(tiny, IMAGES, labels, method), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize(
    "labels, options, message",
    [
        ([0] * 5, {"method": "lime"}, "there is no method 'lime'; choose one of grad-cam, hires"),
        ([0] * 5, {"batch": 0}, "batch is 0; it must be at least 1"),
        ([0] * 4, {}, "there are 5 images; give a list of as many labels"),
        ([0, 1, 2, 1, 3], {}, "label 4 is 3; the IDs are 0 to 2"),
        (["lynx", 0, 0, 0, 0], {}, "label 0: there is no class 'lynx'"),
    ],
)
def test_what_cannot_be_explained(tiny, labels, options, message):
    with pytest.raises(UserError, match=message) as caught:
        gcpatch.explain(tiny, IMAGES, labels, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "images, message",
    [
        (255 * IMAGES, r"goes from .* give floats in \[0, 1\]"),
        (IMAGES - 0.5, r"goes from -0\..* give floats in \[0, 1\]"),
        (np.nan * IMAGES, "not finite"),
        (np.zeros((1, 28, 28, 3), np.uint8), "is uint8 from 0 to 0; give floats"),
        (IMAGES[0], r"has shape \[28, 28, 3\] instead of \[n, height"),
        (IMAGES[:0], r"has shape \[0, 28, 28, 3\]"),
        (IMAGES.transpose(0, 3, 1, 2), r"has shape \[5, 3, 28, 28\]"),
    ],
)
def test_what_is_no_batch_of_images(images, message):
    with pytest.raises(checks.InputError, match=message) as caught:
        checks.images(images)
    assert "\n" not in str(caught.value)


def test_values_are_asked_for(tiny):
    with pytest.raises(checks.InputError, match="the batch of images goes from"):
        gcpatch.explain(tiny, 255 * IMAGES, LABELS)


def test_a_list_of_labels_is_asked_for(tiny):
    for labels in (0, "b", [[0]]):
        with pytest.raises(checks.InputError, match="there are 1 images; give a list"):
            checks.classes(tiny, labels, count=1, what="label")
