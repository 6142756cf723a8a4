from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcpatch.attacks.blending import blend, coverage, cut, paste
from gcpatch.attacks.regions import CORNERS, Patch, PatchError

FULL = (224, 224)
quick = settings(max_examples=40, deadline=None, derandomize=True)


def random(seed, *shape, low=0.0, high=1.0):
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape), jnp.float32)


def at(row, column):
    return jnp.asarray([row, column], jnp.int32)


def inside(image, row, column, size):
    return image[row : row + size, column : column + size]


# --- Patch -------------------------------------------------------------------


@pytest.mark.parametrize(
    "position, expected",
    [
        ("top-right", (0, 12)),
        ("top-left", (0, 0)),
        ("bottom-left", (6, 0)),
        ("bottom-right", (6, 12)),
        ((3, 11), (3, 11)),
        ((6, 12), (6, 12)),
    ],
)
def test_corner(position, expected):
    assert Patch(5, 1.0, position).corner(11, 17) == expected


@pytest.mark.parametrize("position", CORNERS)
def test_a_patch_as_large_as_the_image(position):
    assert Patch(11, 1.0, position).corner(11, 11) == (0, 0)


def test_the_paper_s_patch_is_flush():
    assert Patch().corner(224, 224) == (0, 160)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 0}, "size is 0"),
        ({"size": -3}, "size is -3"),
        ({"ratio": 0.0}, "ratio is 0.0"),
        ({"ratio": 1.5}, "ratio is 1.5"),
        ({"ratio": -0.1}, "ratio is -0.1"),
        ({"ratio": float("nan")}, "ratio is nan"),
        ({"position": "middle"}, "'middle'; choose one of top-right, top-left, bott"),
    ],
)
def test_a_patch_that_cannot_be(options, message):
    with pytest.raises(PatchError, match=message):
        Patch(**options)


@pytest.mark.parametrize(
    "size, position",
    [(5, (-1, 0)), (5, (0, -1)), (5, (7, 0)), (5, (0, 13)), (12, "top-right"), (18, "bottom-left")],
)
def test_a_patch_outside_the_image(size, position):
    with pytest.raises(PatchError, match=f"{size}x{size} .* inside an image of 11x17"):
        Patch(size, 1.0, position).corner(11, 17)


# --- cut, paste, blend -------------------------------------------------------


@pytest.mark.parametrize("ratio", [1.0, 0.2, 0.35])
@quick
@given(seed=st.integers(0, 999))
def test_blend_is_equation_4(ratio, seed):
    tile, noise = random(seed, 5, 5, 3), random(seed + 1, 5, 5, 3)
    out = np.asarray(blend(tile, noise, ratio))
    expected = np.float32(1 - ratio) * np.asarray(tile) + np.float32(ratio) * np.asarray(noise)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    assert np.abs(out - tile).max() <= ratio + 1e-6
    assert 0 <= out.min() and out.max() <= 1


def test_a_ratio_of_1_is_the_noise_itself():
    noise = random(1, 5, 5, 3)
    np.testing.assert_array_equal(blend(random(0, 5, 5, 3), noise, 1.0), noise)


def test_the_image_stays_valid_under_wild_noise():
    tile, noise = random(0, 4, 4, 3), random(1, 4, 4, 3, low=-50, high=50)
    out = blend(tile, noise, 0.2)
    assert out.min() == 0 and out.max() == 1
    np.testing.assert_allclose(out, jnp.clip(0.8 * tile + 0.2 * noise, 0, 1), atol=1e-6)


@quick
@given(seed=st.integers(0, 999), row=st.integers(0, 7), column=st.integers(0, 4))
def test_paste_changes_the_square_alone_and_cut_takes_it_out(seed, row, column):
    image, tile = random(seed, 12, 9, 3), random(seed + 1, 5, 5, 3)
    expected = np.array(image)
    expected[row : row + 5, column : column + 5] = tile
    out = paste(image, tile, at(row, column))
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(cut(out, at(row, column), (5, 5)), tile)
    np.testing.assert_array_equal(
        cut(image, at(row, column), (5, 5)), inside(image, row, column, 5)
    )


def test_paste_leaves_values_that_are_no_pixels_alone():
    image = jnp.full((6, 6, 3), -7.0).at[0, 0].set(jnp.nan)
    out = paste(image, jnp.ones((2, 2, 3)), at(3, 3))
    np.testing.assert_array_equal(out, image.at[3:5, 3:5].set(1.0))


def test_gradients_reach_the_tile_alone():
    image, tile, weight = random(0, 8, 8, 3), random(1, 4, 4, 3), random(2, 8, 8, 3)
    loss = lambda image, tile: (weight * paste(image, tile, at(2, 3))).sum()  # noqa: E731
    to_image, to_tile = jax.grad(loss, (0, 1))(image, tile)
    np.testing.assert_array_equal(to_tile, inside(weight, 2, 3, 4))
    np.testing.assert_array_equal(to_image, weight.at[2:6, 3:7].set(0))


def test_under_vmap_and_jit_with_traced_corners():
    images, noises = random(0, 4, 8, 9, 3), random(1, 4, 3, 3, 3)
    ratios = jnp.asarray([1.0, 0.5, 0.2, 0.9])
    corners = jnp.asarray([[0, 6], [0, 0], [5, 0], [2, 3]], jnp.int32)

    def one(image, noise, ratio, corner):
        return paste(image, blend(cut(image, corner, (3, 3)), noise, ratio), corner)

    many = jax.jit(jax.vmap(one))(images, noises, ratios, corners)
    for out, *arguments in zip(many, images, noises, ratios, corners, strict=True):
        np.testing.assert_allclose(out, one(*arguments), atol=1e-7)


def test_double_precision(x64):
    tile, noise = jnp.full((2, 2, 3), 0.3, jnp.float64), jnp.full((2, 2, 3), 0.7, jnp.float64)
    out = blend(tile, noise, 0.25)
    assert out.dtype == np.float64
    np.testing.assert_allclose(out, 0.4, rtol=1e-15)


# --- coverage ----------------------------------------------------------------


@pytest.mark.parametrize("cells, covered", [(14, 4), (7, 2)])
def test_64_pixels_at_the_top_right_of_224(cells, covered):
    expected = np.zeros((cells, cells))
    expected[:covered, -covered:] = 1
    np.testing.assert_array_equal(coverage((cells, cells), FULL, at(0, 160), (64, 64)), expected)


def test_the_paper_s_column_covers_cells_in_part():
    expected = np.zeros((14, 14))
    expected[:4, 9:14] = [10 / 16, 1, 1, 1, 6 / 16]  # columns 150 to 213
    np.testing.assert_allclose(coverage((14, 14), FULL, at(0, 150), (64, 64)), expected, atol=1e-6)


def test_coverage_of_a_patch_within_one_cell_and_of_oblong_maps():
    expected = np.zeros((2, 3))
    expected[1, 2] = 4 / (5 * 4)
    np.testing.assert_allclose(coverage((2, 3), (10, 12), at(6, 9), (2, 2)), expected, atol=1e-6)
    expected = np.outer([2 / 5, 3 / 5], [1 / 4, 1, 0])
    np.testing.assert_allclose(coverage((2, 3), (10, 12), at(3, 3), (5, 5)), expected, atol=1e-6)


@quick
@given(st.data())
def test_coverage_adds_up_to_the_patch(data):
    height, width = data.draw(st.integers(3, 60)), data.draw(st.integers(3, 60))
    cells = data.draw(st.sampled_from([(1, 1), (3, 5), (7, 7)]))
    size = data.draw(st.integers(1, min(height, width)))
    row, column = data.draw(st.integers(0, height - size)), data.draw(st.integers(0, width - size))
    covered = coverage(cells, (height, width), at(row, column), (size, size))
    assert covered.shape == cells
    assert 0 <= covered.min() and covered.max() <= 1 + 1e-5
    area = height * width / (cells[0] * cells[1])
    np.testing.assert_allclose(covered.sum() * area, size**2, rtol=1e-4)


def test_coverage_under_vmap():
    corners = jnp.asarray([[0, 0], [1, 2], [4, 3]], jnp.int32)
    one = partial(coverage, (3, 3), (9, 9), shape=(4, 4))
    many = jax.jit(jax.vmap(lambda corner: one(corner)))(corners)
    for out, corner in zip(many, corners, strict=True):
        np.testing.assert_allclose(out, one(corner), atol=1e-6)
