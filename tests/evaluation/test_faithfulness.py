"""Deletion, insertion and ROAD where they can be computed by hand, and beside pytorch-grad-cam."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from tinies import Flat

from gcpatch.errors import UserError
from gcpatch.evaluation import faithfulness as module
from gcpatch.evaluation.faithfulness import (
    blurred,
    deletion,
    faithfulness,
    imputed,
    insertion,
    ranks,
    road,
)

HEAT = np.float32([[1, 4], [3, 2]])


@pytest.fixture
def four():
    """A network of 2 x 2 pixels, and an image, in which the first class speaks by one number each.

    With its pixels the class has the odds 1, 4, 2 and 1 times those of the two others.
    """
    image = np.float32([[[0.9] * 3, [0.1] * 3], [[0.2] * 3, [0.8] * 3]])
    mean, std = (np.float32(x) for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    shares = np.log([[1.0, 4.0], [2.0, 1.0]])[..., None] / 3 / ((image - mean) / std)
    return Flat(jnp.asarray(np.stack([shares, 0 * shares, 0 * shares], -1), jnp.float32)), image


def test_the_order_of_pixels():
    np.testing.assert_array_equal(ranks(HEAT, (2, 2)), [[3, 0], [1, 2]])
    nothing = np.asarray(ranks(np.zeros((2, 2), np.float32), (8, 8)))
    assert sorted(nothing.ravel()) == [*range(64)] and nothing.ravel().tolist() != [*range(64)]
    heat = np.float32([[np.nan, 0], [1, -np.inf]])
    assert np.asarray(ranks(heat, (2, 2)))[[1, 0], [0, 1]].tolist() == [0, 1]
    enlarged = np.asarray(ranks(HEAT, (8, 8)))
    assert enlarged[0, 7] < 4 and enlarged[0, 0] > 59  # the corners of most and least heat


def test_deletion(four):
    # 8/10, then without 4: 2/4, then without 2: 1/3, and the others change nothing
    wanted = (0.8 / 2 + 0.5 + 1 / 3 + 1 / 3 + 1 / 3 / 2) / 4
    np.testing.assert_allclose(deletion(*four, 0, HEAT, steps=4), wanted, rtol=1e-5)
    np.testing.assert_allclose(deletion(*four, "a", HEAT, steps=2), (0.4 + 1 / 3 + 1 / 6) / 2, 1e-5)
    wanted = (0.8 / 2 + 0.8 + 0.8 + 4 / 6 + 1 / 3 / 2) / 4  # the worst order
    np.testing.assert_allclose(deletion(*four, 0, -HEAT, steps=4), wanted, rtol=1e-5)


def test_insertion(four, monkeypatch):
    mean = jnp.float32([0.485, 0.456, 0.406])
    monkeypatch.setattr(module, "blurred", lambda image: jnp.broadcast_to(mean, image.shape))
    wanted = (1 / 3 / 2 + 4 / 6 + 0.8 + 0.8 + 0.8 / 2) / 4
    np.testing.assert_allclose(insertion(*four, 0, HEAT, steps=4), wanted, rtol=1e-5)


def test_the_blur_is_a_gaussian_of_eleven_taps():
    image = np.random.default_rng(0).random((17, 23, 3), np.float32)
    wanted = ndimage.gaussian_filter(image, (5, 5, 0), mode="reflect", truncate=1)
    np.testing.assert_allclose(blurred(jnp.asarray(image)), wanted, atol=1e-5)


def test_an_imputed_pixel_is_the_mean_of_its_neighbours():
    image = np.arange(27, dtype=np.float32).reshape(3, 3, 3) ** 2 / 676
    one = np.zeros((3, 3), bool)
    one[0, 0] = True
    wanted = (2 * image[0, 1] + 2 * image[1, 0] + image[1, 1]) / 5
    found = np.asarray(imputed(image, one))
    np.testing.assert_allclose(found[0, 0], wanted, atol=1e-5)
    np.testing.assert_array_equal(found[~one], image[~one])
    one[0, 1] = True  # a = (2 b + 2 d + e) / 5 and b = (2 a + 2 c + 2 e + d + f) / 8, as one
    (_, _, c), (d, e, f) = image[0], image[1]
    first, second = np.linalg.solve([[5, -2], [-2, 8]], [2 * d + e, 2 * c + 2 * e + d + f])
    found = np.asarray(imputed(image, one))
    np.testing.assert_allclose(found[0, :2], [first, second], atol=1e-3)
    assert 0.002 < np.std(np.asarray(imputed(image, one, jax.random.key(0)) - found)[one]) < 0.03


def test_road(four):
    network, image = four
    ((a, b), (c, d)) = image
    # the most relevant pixel, b, and the least, a, each the mean of the three others
    removed = np.stack([image, image])
    removed[0, 0, 0] = (2 * b + 2 * c + d) / 5
    removed[1, 0, 1] = (2 * a + 2 * d + c) / 5
    least, most = np.asarray(jax.nn.softmax(network(removed)))[:, 0]
    found = road(network, image, 0, HEAT, shares=(0.25,), noise=0.0)
    np.testing.assert_allclose(found, (least - most) / 2, atol=1e-3)
    np.testing.assert_allclose(
        road(network, image, 0, -HEAT, shares=(0.25,), noise=0.0), -found, atol=1e-3
    )


def test_many_images_are_one_after_the_other(four):
    network, image = four
    images, maps = np.stack([image, image[::-1]]), np.stack([HEAT, -HEAT])
    found = faithfulness(network, images, ["a", 2], maps)
    assert found.deletion.shape == found.road.shape == (2,)
    for name, measure in (("deletion", deletion), ("insertion", insertion), ("road", road)):
        np.testing.assert_allclose(
            getattr(found, name)[1], measure(network, images[1], 2, maps[1]), atol=1e-5
        )
    with pytest.raises(UserError, match=r"there are 2 images; give as many maps \[n, h, w\]"):
        faithfulness(network, images, [0, 0], maps[:1])


def test_no_map_is_better_than_the_truth(four):
    network, image = four
    every = [
        np.float32(order).reshape(2, 2) for order in ([1, 4, 3, 2], [4, 3, 2, 1], [2, 1, 4, 3])
    ]
    found = [float(deletion(network, image, 0, heat, steps=4)) for heat in every]
    assert found[0] == min(found) and found[0] < max(found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
def test_pytorch_grad_cam_imputes_alike():
    pytest.importorskip("torch")
    from convert import torchvision  # noqa: F401, which mends torchvision's import
    from convert.operators import torch

    pgc = pytest.importorskip("pytorch_grad_cam.metrics.road")
    rng = np.random.default_rng(1)
    image = rng.random((16, 20, 3), np.float32)
    for share in (0.1, 0.5, 0.9):
        removed = rng.random((16, 20)) < share
        theirs = pgc.NoisyLinearImputer(0)(
            torch.tensor(image.transpose(2, 0, 1)), torch.tensor(1.0 - removed)
        )
        np.testing.assert_allclose(
            imputed(image, removed), theirs.numpy().transpose(1, 2, 0), atol=2e-3
        )
