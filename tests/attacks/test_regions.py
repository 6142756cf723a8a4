"""Frames, masks and bounded perturbations: where they lie, what they may do, and that they work."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tinies import FLAT

import gcpatch
from gcpatch import cli
from gcpatch.attacks import regions
from gcpatch.attacks.blending import coverage
from gcpatch.attacks.regions import Bounded, Frame, Mask, Patch, PatchError
from gcpatch.attacks.settings import Attack
from gcpatch.data import images, scenes

SIDE = 64


def covered(place, cells=(4, 4), size=(SIDE, SIDE)):
    return np.asarray(coverage(cells, size, jnp.asarray(place.corner), place.shape, place.ratio))


@pytest.fixture
def mask(tmp_path):
    """White in the lower left quarter, mid-grey in the lower right one."""
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    picture[SIDE // 2 :, : SIDE // 2] = 255
    picture[SIDE // 2 :, SIDE // 2 :] = 128
    images.write_png(tmp_path / "mask.png", picture)
    return str(tmp_path / "mask.png")


def test_a_frame_covers_the_border():
    place = Frame(8, 0.5).place(SIDE, SIDE)
    assert (place.ratio == 0.5).sum() == SIDE**2 - (SIDE - 16) ** 2
    cells = covered(place)
    np.testing.assert_allclose(cells[0], [0.75, 0.5, 0.5, 0.75], rtol=1e-6)
    np.testing.assert_allclose(cells[1], [0.5, 0, 0, 0.5], rtol=1e-6)


def test_a_mask_is_scaled_to_the_image_and_its_grey_is_the_ratio(mask):
    place = Mask(mask, 0.5).place(128, 128)
    np.testing.assert_allclose(place.ratio[96, 32], 0.5)
    np.testing.assert_allclose(place.ratio[96, 96], 0.5 * 128 / 255, rtol=1e-6)
    assert not place.ratio[:60].any()
    np.testing.assert_allclose(covered(place, (2, 1), (128, 128)), [[0], [1]], rtol=1e-5)


def test_a_mask_changes_nothing_where_it_is_clear(tmp_path):
    white = np.full((SIDE, SIDE, 4), 255, np.uint8)
    white[: SIDE // 2, :, 3] = 0
    white[SIDE // 2 :, SIDE // 2 :, 3] = 128
    for kind in ("PNG", "WEBP"):
        Image.fromarray(white).save(tmp_path / "mask", kind, lossless=True, exact=True)
        ratio = Mask(str(tmp_path / "mask")).place(SIDE, SIDE).ratio[..., 0]
        np.testing.assert_allclose(ratio, white[..., 3] / 255, rtol=1e-6)
    Image.fromarray(white[: SIDE // 2]).save(tmp_path / "clear.png")
    with pytest.raises(PatchError, match="all black or clear"):
        Mask(str(tmp_path / "clear.png")).place(SIDE, SIDE)


def test_the_coverage_of_a_mask_that_is_a_square_is_the_squares():
    patch, cells = Patch(13, 1.0, (21, 30)), (7, 5)
    inside = np.zeros((SIDE, SIDE, 1), np.float32)
    inside[21:34, 30:43] = 1
    whole = patch.place(SIDE, SIDE)._replace(corner=(0, 0), shape=(SIDE, SIDE), ratio=inside)
    np.testing.assert_allclose(
        covered(whole, cells), covered(patch.place(SIDE, SIDE), cells), atol=1e-6
    )


@pytest.mark.parametrize(
    "kind, given, message",
    [
        (Frame, (0,), "width is 0; it must be at least 1"),
        (Frame, (32,), "32 pixels wide.*must be 1 to 31"),
        (Frame, (8, 0.0), "ratio is 0"),
        (Mask, ("any.png", 2.0), "ratio is 2.0; it must be over 0 and at most 1"),
        (Bounded, (0,), "levels is 0; it must be 1 to 255"),
        (Bounded, (256,), "levels is 256"),
    ],
)
def test_what_cannot_be(kind, given, message):
    with pytest.raises(PatchError, match=message):
        kind(*given).place(SIDE, SIDE)


def test_a_black_mask_cannot_be(tmp_path):
    images.write_png(tmp_path / "black.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(PatchError, match="all black"):
        Mask(str(tmp_path / "black.png")).place(SIDE, SIDE)


def test_settings_give_the_region_back(mask):
    for region in (Patch(9, 0.3, (1, 2)), Frame(5, 0.5), Mask(mask, 0.9), Bounded(3)):
        described = json.loads(json.dumps(regions.describe(region)))
        assert isinstance(region, regions.KINDS[described["kind"]])
        assert regions.region(described) == region
        del described["kind"]  # as gcpatch 0.1 wrote it
        assert regions.region(described) == region


@pytest.mark.parametrize(
    "described", [{}, {"kind": "star"}, {"size": 3}, {"kind": "patch", "n": 1}]
)
def test_what_describes_no_region(described):
    with pytest.raises((KeyError, TypeError)):
        regions.region(described)


@pytest.mark.parametrize(
    "region, init",
    [(Frame(1), "mean"), (Bounded(25), "mean"), (Bounded(25), "random"), ("mask", "mean")],
)
def test_the_attack_stays_where_it_may_and_fools_the_class(flat, region, init, mask):
    region = Mask(mask) if region == "mask" else region
    images = np.random.default_rng(5).random((2, FLAT, FLAT, 3), np.float32)
    targets = np.asarray(flat(images)).argsort(-1)[:, -2]
    how = Attack(objective="classify", steps=60, init=init, learning_rate=0.05)
    for image, outcome in zip(
        images, gcpatch.attack(flat, images, targets, region, how, batch=2), strict=True
    ):
        place = region.place(FLAT, FLAT)
        change = np.abs(outcome.adversarial - image)
        bound = place.ratio if place.bound is None else place.bound
        assert (change <= bound + 1e-6).all()
        assert change.max() > 0.01
        assert outcome.converged  # the network is linear: every step leads to the target


def test_no_pixel_goes_beyond_the_bound(flat):
    images = np.random.default_rng(5).random((1, FLAT, FLAT, 3), np.float32)
    how = Attack(
        objective="classify", steps=5, learning_rate=0.5
    )  # each step is far longer than the bound
    (outcome,) = gcpatch.attack(flat, images, [2], Bounded(2), how)
    change = np.abs(outcome.adversarial - images[0])
    assert 0.9 * 2 / 255 < change.max() <= 2 / 255 + 1e-6


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) for n in ("frame", "mask")] + ["linf"]
)
def test_the_command_line_makes_them_and_pytorch_agrees(name, tmp_path, mask, capsys):
    drawn = np.asarray(scenes.draw_batch(5, 1, size=224).image[0])
    images.write_png(tmp_path / "scene.png", np.rint(drawn * 255).astype(np.uint8))
    common = [str(tmp_path / "scene.png"), "--model", "mini_vgg", "--steps", "2", "--target"]
    out, option = tmp_path / "run", {"frame": "12", "mask": mask, "linf": "8"}[name]
    assert cli.main(["attack", *common, "stripes", f"--{name}", option, "--out", str(out)]) == 0
    record = json.loads((out / "results.jsonl").read_text())
    assert 0 < record["energy_adversarial"] <= 1 + 1e-6
    if name == "linf":
        assert 0 < record["linf"] <= 8 / 255 + 1e-9
        assert record["energy_adversarial"] > 0.999
    assert cli.main(["verify", "--run", str(out)]) == 0
    capsys.readouterr()
    assert cli.main(["attack", *common, "0", "--linf", "8", "--size", "9", "--out", "x"]) == 2
    assert "--size and --linf exclude each other" in capsys.readouterr().err
