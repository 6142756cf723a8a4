"""Defences: what they do to pixels, against OpenCV and by hand, and their derivatives."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gcpatch.data import scenes
from gcpatch.errors import UserError
from gcpatch.evaluation import defences
from gcpatch.evaluation.defences import bit_depth, blur, defence, jpeg, resize_crop, soft_jpeg


@pytest.fixture(scope="module")
def scene():
    return np.asarray(scenes.draw_batch(6, 1, size=72).image[0])


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_soft_jpeg_is_near_opencvs(scene, quality):
    change = np.abs(jpeg(scene, quality) - scene)
    apart = np.abs(np.asarray(soft_jpeg(jnp.asarray(scene), quality)) - jpeg(scene, quality))
    assert 0.003 < change.mean()
    assert apart.mean() < 0.25 * change.mean() + 1 / 255
    assert apart.max() < 0.2


def test_soft_jpeg_quantises_each_wave():
    wave = 0.5 + 0.3 * np.cos((2 * np.arange(16) + 1) * 3 * np.pi / 16)[:8]
    image = np.repeat(np.tile(wave, (8, 1))[..., None], 3, -1).astype(np.float32)
    weight = 255 * 0.3 * 4 * np.sqrt(2)  # of the one wave there is: (0, 3)
    kept = round(weight / 16) * 16  # its step at quality 50, and what is left of rounding
    kept += ((weight - kept) / 16) ** 3 * 16
    expected = 0.5 + (image - 0.5) * kept / weight
    grey = 0.5 * 255 - 128  # the mean, below one step: what is left of it
    expected += ((grey * 8 / 16) ** 3 * 16 / 8 + 128) / 255 - 0.5
    np.testing.assert_allclose(soft_jpeg(jnp.asarray(image), 50), expected, atol=2e-5)


def test_soft_jpeg_has_the_derivative_of_its_values(x64, scene):
    image = jnp.asarray(scene[:16, :16], jnp.float64) * 0.8 + 0.1
    weights = jnp.asarray(np.random.default_rng(0).normal(size=image.shape))
    check_grads(
        lambda image: (weights * soft_jpeg(image, 60)).sum(),
        (image,),
        1,
        ["rev"],
        eps=1e-7,
        rtol=1e-4,
    )


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_blur_is_opencvs(scene, sigma):
    reach = 2 * int(np.ceil(3 * sigma)) + 1
    expected = cv2.GaussianBlur(
        scene, (reach, reach), sigma, sigmaY=sigma, borderType=cv2.BORDER_REPLICATE
    )
    np.testing.assert_allclose(blur(jnp.asarray(scene), sigma), expected, atol=1e-5)


def test_bit_depth_leaves_so_many_levels_and_the_derivative(scene):
    found = bit_depth(jnp.asarray(scene), 2)
    assert set(np.unique(np.rint(np.asarray(found) * 3))) == {0, 1, 2, 3}
    np.testing.assert_allclose(np.rint(found * 3) / 3, found, atol=1e-6)
    assert np.abs(found - scene).max() <= 1 / 6 + 1e-6
    gradient = jax.grad(lambda image: (bit_depth(image, 2) ** 2).sum())(jnp.asarray(scene))
    np.testing.assert_allclose(gradient, 2 * found, rtol=1e-6)


def test_a_crop_shows_a_part_of_the_image():
    rows, columns = np.indices((60, 40))
    image = jnp.asarray(np.stack([rows, columns, rows], -1) / 60, jnp.float32)
    seen = np.asarray(resize_crop(image, jax.random.key(3), 0.5)) * 60
    for channel, axis, length in ((0, 0, 60), (1, 1, 40)):
        steps = np.diff(seen[8:-8, 8:-8, channel], axis=axis)
        np.testing.assert_allclose(steps, steps.mean(), atol=1e-3)
        assert 0.5 <= steps.mean() < 1
        first, last = seen[..., channel].min(), seen[..., channel].max()
        assert 0 <= first and last <= length - 1
    other = np.asarray(resize_crop(image, jax.random.key(4), 0.5)) * 60
    assert np.abs(other - seen).max() > 1


@pytest.mark.parametrize("name", ["jpeg-60", "blur-1.5", "bits-3", "crop-80"])
def test_defences_by_name(scene, name):
    found, key = defence(name), jax.random.key(0)
    verdict = np.asarray(found.verdict(jnp.asarray(scene), key))
    attack = np.asarray(found.attack(jnp.asarray(scene), key))
    assert verdict.shape == scene.shape and verdict.min() >= 0 and verdict.max() <= 1 + 1e-6
    assert np.abs(verdict - scene).max() > 0.02
    assert np.abs(attack - verdict).mean() < 0.02
    assert found.moves == (name == "crop-80")


@pytest.mark.parametrize(
    "name", ["jpg-60", "jpeg", "jpeg-0", "jpeg-x", "bits-9", "blur-0", "crop-5"]
)
def test_defences_that_cannot_be(name):
    with pytest.raises(UserError, match=name):
        defence(name)
    assert set(defences.KINDS) == {"jpeg", "blur", "bits", "crop"}
