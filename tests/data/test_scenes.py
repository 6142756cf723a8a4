import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcpatch.data import scenes

SEED, COUNT, SMALL = 3, 128, 96


@pytest.fixture(scope="module")
def batch():
    return jax.tree.map(np.asarray, scenes.draw_batch(SEED, COUNT))


@pytest.fixture(scope="module")
def relabelled():
    """Scenes 0 .. 7, small, each with all ten labels: leading axes [scene, label]."""

    @jax.jit
    def render(index, label):
        _, key = jax.random.split(jax.random.fold_in(jax.random.key(SEED), index))
        return scenes._render(key, label, SMALL)

    every = [jax.vmap(render, (0, None))(jnp.arange(8), label) for label in range(10)]
    return jax.tree.map(lambda *leaves: np.stack(leaves, 1), *every)


def test_shapes_types_and_ranges(batch):
    assert batch.image.shape == (COUNT, 224, 224, 3) and batch.image.dtype == np.float32
    assert batch.label.shape == (COUNT,) and batch.label.dtype == np.int32
    assert batch.mask.shape == (COUNT, 224, 224) and batch.mask.dtype == np.bool_
    assert np.isfinite(batch.image).all()
    assert 0 <= batch.image.min() and batch.image.max() <= 1


def test_every_class_occurs_about_equally_often(batch):
    assert len(set(scenes.CATEGORIES)) == 10
    assert np.bincount(batch.label, minlength=10).min() >= COUNT / 10 / 2


@pytest.mark.parametrize("start, count", [(0, 1), (5, 3), (14, 20), (47, 1), (16, 16)])
def test_a_scene_depends_on_seed_and_index_alone(batch, start, count):
    part = scenes.draw_batch(SEED, count, start=start)
    for whole, piece in zip(batch, part, strict=True):
        np.testing.assert_array_equal(whole[start : start + count], piece)


def test_seeds_and_indices_differ(batch):
    other = scenes.draw_batch(SEED + 1, 16)
    assert np.abs(other.image - batch.image[:16]).mean(axis=(1, 2, 3)).min() > 0.02
    assert np.abs(batch.image[1:33] - batch.image[:32]).mean(axis=(1, 2, 3)).min() > 0.02


@pytest.mark.parametrize("count, start", [(0, 0), (1, -1)])
def test_no_scenes_outside_the_sequence(count, start):
    with pytest.raises(ValueError, match="count must be at least 1 and start at least 0"):
        scenes.draw_batch(0, count, start=start)


def test_objects_keep_out_of_the_corners_and_off_the_border(batch):
    covered = batch.mask.any(axis=0)
    for rows in (slice(0, 64), slice(160, 224)):
        for columns in (slice(0, 64), slice(160, 224)):
            assert not covered[rows, columns].any()
    assert not covered[[0, -1]].any() and not covered[:, [0, -1]].any()
    arms = covered[:12], covered[-12:], covered[:, :12], covered[:, -12:]
    assert all(arm.any() for arm in arms)  # and yet they reach all four sides


def test_outlines_stay_in_the_allowed_cross_for_many_keys():
    margin = 3.0

    @jax.jit
    @jax.vmap
    def outline_and_place(key):
        k_outline, k_place = jax.random.split(key)
        outline = scenes._outline(k_outline)
        return outline, *scenes._place(k_place, outline, margin)

    keys = jax.random.split(jax.random.key(0), 1000)
    outline, centre, scale = jax.tree.map(np.asarray, outline_and_place(keys))
    angle = np.arange(scenes.ANGLES) * 2 * np.pi / scenes.ANGLES
    ray = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    points = centre[:, None] + (scale[:, None] * outline)[..., None] * ray
    edge = 112 - np.abs(points - 112)  # distance to the nearer border along each axis
    assert edge.min() > margin - 1e-3
    assert edge.max(axis=-1).min() - 64 > margin - 1e-3
    area = np.pi * scale**2 * np.mean(outline**2, axis=1) / 224**2
    assert area.min() >= 0.0649 and area.max() <= 0.2901
    # Round outlines and pointed ones, and places all over the cross.
    assert np.ptp(np.mean(outline**2, axis=1)) > 0.5
    assert (np.std(centre, axis=0) > 20).all()


def test_object_areas(batch):
    area = batch.mask.mean(axis=(1, 2))
    assert 0.06 < area.min() < 0.08
    assert 0.2 < area.max() < 0.3


def test_the_label_changes_the_pattern_and_nothing_else(relabelled):
    for image, label, mask in zip(*relabelled, strict=True):
        np.testing.assert_array_equal(label, range(10))
        assert (mask == mask[0]).all()
        ground = cv2.dilate(mask[0].astype(np.uint8), np.ones((5, 5))) == 0
        assert np.ptp(image[:, ground], axis=0).max() < 1e-5
        inside = image[:, mask[0]] @ scenes.LUMA
        distance = np.abs(inside[:, None] - inside).mean(axis=-1)
        assert distance[~np.eye(10, dtype=bool)].min() > 0.05


def test_the_mask_is_exactly_what_the_pattern_covers(relabelled):
    for image, _, mask in zip(*relabelled, strict=True):
        touched = np.ptp(image, axis=0).max(axis=-1) > 0.02  # some label changes this pixel
        assert np.mean(touched[mask[0]]) > 0.95
        grown = cv2.dilate(mask[0].astype(np.uint8), np.ones((3, 3))) > 0
        assert touched[~grown].sum() <= 0.01 * mask[0].sum()  # but for the tips of sharp corners


def test_a_scene_is_the_same_at_another_size(batch, relabelled):
    scene = np.arange(8)
    small = relabelled.image[scene, batch.label[:8]]
    large = np.stack(
        [cv2.resize(i, (SMALL, SMALL), interpolation=cv2.INTER_AREA) for i in batch.image[:8]]
    )
    distance = np.abs(small[:, None] - large).mean(axis=(2, 3, 4))
    assert np.diag(distance).max() < 0.1 < distance[~np.eye(8, dtype=bool)].min()
    area = relabelled.mask[:, 0].mean(axis=(1, 2))
    np.testing.assert_allclose(area, batch.mask[:8].mean(axis=(1, 2)), atol=0.03)
    corner = [*range(27), *range(69, SMALL)]  # 64 / 224 of 96, rounded down
    assert not relabelled.mask.any(axis=(0, 1))[np.ix_(corner, corner)].any()


def test_draw_is_pure_and_takes_any_size():
    scene = jax.eval_shape(
        jax.vmap(lambda key: scenes.draw(key, 40)), jax.random.split(jax.random.key(0), 3)
    )
    assert [leaf.shape for leaf in scene] == [(3, 40, 40, 3), (3,), (3, 40, 40)]


def test_class_is_independent_of_area_and_place(batch):
    area = batch.mask.mean(axis=(1, 2))
    means = np.array([area[batch.label == label].mean() for label in range(10)])
    assert np.abs(means - area.mean()).max() < 4 * area.std() / np.sqrt(COUNT / 10 / 2)
    assert np.corrcoef(area, batch.label)[0, 1] ** 2 < 0.06


@pytest.mark.parametrize("name", scenes.CATEGORIES)
def test_both_colours_cover_a_fair_share_of_every_pattern(name):
    u, v = jnp.meshgrid(*2 * [jnp.arange(0, 20, 0.05)])
    share = np.mean(np.asarray(scenes._PATTERNS[name][0](u, v) > 0))
    assert 0.2 < share < 0.8


def test_pattern_colours_contrast(batch):
    palettes = jax.jit(jax.vmap(scenes._palette))(jax.random.split(jax.random.key(0), 1000))
    step = np.asarray(palettes @ scenes.LUMA) @ [1, -1]
    assert np.abs(step).min() > 0.34
    assert 0.4 < np.mean(step > 0) < 0.6
    for image, mask in zip(batch.image[:64], batch.mask, strict=False):  # in the picture, lit
        dark, bright = np.percentile(image[mask] @ scenes.LUMA, [10, 90])
        assert bright - dark > 0.25


def test_colours_have_the_luminance_asked_for_and_every_hue():
    light = jnp.linspace(0.05, 0.95, 500)
    tint = jax.random.uniform(jax.random.key(1), (500, 2))
    colours = jax.jit(jax.vmap(scenes._colour))(tint, light)
    np.testing.assert_allclose(colours @ scenes.LUMA, light, atol=1e-5)
    assert 0 <= colours.min() and colours.max() <= 1
    assert all(np.mean(colours.argmax(axis=1) == channel) > 0.2 for channel in range(3))
