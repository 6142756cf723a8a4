"""The pictures of a result: the paper's formulas by hand, and a panel that says what it shows."""

import cv2
import numpy as np
import pytest

from gcpatch.data.images import read_png
from gcpatch.report import figures
from gcpatch.report.figures import (
    COLORMAPS,
    coloured,
    jet,
    mask_picture,
    overlay,
    panel,
    panel_tiles,
    recoloured,
    upsample,
    write_pictures,
)

RECORD = {
    "id": "scene_007",
    "model": "mini_vgg",
    "objective": "hide",
    "clean": {"id": 1, "name": "stripes", "probability": 0.931},
    "adversarial": {"id": 2, "name": "rings", "probability": 0.99974},
    "target": {"id": 2, "name": "rings"},
    "fooled_class": True,
    "energy_adversarial": 0.0213,
}


def pictures(side=64, size=16, corner=(0, 48)):
    """A clean and an attacked image, two maps and the patch's box."""
    rng = np.random.default_rng(3)
    clean = rng.integers(0, 200, (side, side, 3), dtype=np.uint8)
    attacked = clean.copy()
    row, column = corner
    attacked[row : row + size, column : column + size] = 255 - clean[:size, :size] // 2
    return clean, attacked, rng.random((7, 7)), rng.random((14, 14)), (*corner, size)


# ---- maps ----------------------------------------------------------------------------------------


def test_upsample_is_bilinear_and_divided_by_its_maximum():
    heat = np.array([[0.0, 2.0], [0.0, 2.0]], np.float32)
    np.testing.assert_allclose(upsample(heat, 4), np.tile([0, 0.25, 0.75, 1], (4, 1)), atol=1e-7)


@pytest.mark.parametrize("heat", [np.zeros((7, 7), np.float32), np.full((3, 3), np.nan)])
def test_a_map_of_nothing_stays_zero(heat):
    values = upsample(heat, 20)
    assert values.shape == (20, 20) and not values.any()
    assert not mask_picture(values).any()
    assert (jet(values) == [0, 0, 128]).all()


def test_a_tiny_or_huge_map_uses_the_whole_range():
    for scale in (1e-38, 1e30):
        values = upsample(np.array([[0, 0.5], [0.5, 1]], np.float32) * np.float32(scale), 8)
        assert np.isfinite(values).all() and values.min() == 0 and values.max() == 1


def test_jet_is_rgb_from_blue_by_green_to_red():
    colours = jet(np.array([[0.0, 0.125, 0.5, 0.875, 1.0]]))[0].astype(int)
    np.testing.assert_array_equal(colours[[0, -1]], [[0, 0, 128], [128, 0, 0]])
    for colour, channel in zip(colours, (2, 2, 1, 0, 0), strict=True):
        assert colour.argmax() == channel
    levels = np.arange(256, dtype=np.uint8)[None]
    assert (jet(levels / 255) == cv2.applyColorMap(levels, cv2.COLORMAP_JET)[..., ::-1]).all()


def test_overlay_is_the_sum_divided_by_its_maximum():
    image = np.array([[[0, 0, 0], [255, 255, 255]], [[10, 20, 30], [100, 0, 0]]], np.uint8)
    values = np.array([[0.0, 1.0], [0.0, 0.0]])
    # jet: (0, 0, 128) at 0 and (128, 0, 0) at 1; the largest sum is 255 + 128 = 383
    sums = np.array([[[0, 0, 128], [383, 255, 255]], [[10, 20, 158], [100, 0, 128]]])
    expected = [[[0, 0, 85], [255, 170, 170]], [[7, 13, 105], [67, 0, 85]]]
    np.testing.assert_array_equal(np.rint(sums * 255 / 383), expected)
    np.testing.assert_array_equal(overlay(image, values), expected)


@pytest.mark.parametrize("before", COLORMAPS)
@pytest.mark.parametrize("after", COLORMAPS)
def test_an_overlay_is_recoloured_from_its_pixels(before, after):
    image, _, heat, _, _ = pictures()
    values = upsample(heat, len(image))
    shown, wanted = overlay(image, values, before), overlay(image, values, after)
    image[10], shown[10] = 255, 255  # an outline, which both pictures have
    found = recoloured(shown, image, before, after)
    np.testing.assert_array_equal(found[10], shown[10])
    found[10], wanted[10] = 0, 0
    assert np.abs(found.astype(int) - wanted).max() <= 6
    assert (before == after) == (np.abs(found.astype(int) - shown)[11:].mean() < 1)


def test_mask_is_the_map_less_its_minimum_divided_by_its_maximum():
    picture = mask_picture(np.array([[0.2, 0.4], [0.6, 1.0]]))
    np.testing.assert_array_equal(picture, [[0, 51], [102, 204]])
    assert picture.dtype == np.uint8


# ---- the panel -----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [32, 64, 96, 224, 299, 500])
def test_the_panels_tiles_are_the_pictures(side):
    clean, attacked, heat, other, box = pictures(side, side // 4, (0, side - side // 4))
    tiles = panel_tiles(panel(clean, attacked, heat, other, box, RECORD))
    factor = len(tiles[0]) // side
    assert len(tiles[0]) == factor * side >= 384
    np.testing.assert_array_equal(tiles[0][::factor, ::factor], clean)
    enlarged = clean.repeat(factor, 0).repeat(factor, 1)
    np.testing.assert_array_equal(tiles[1], overlay(enlarged, upsample(heat, len(enlarged))))
    below = slice(box[2] + 2, None)  # the outline ends just outside the patch
    np.testing.assert_array_equal(tiles[2][::factor, ::factor][below], attacked[below])
    assert not np.array_equal(tiles[2], tiles[3])


def test_what_is_not_a_panel_has_no_tiles():
    assert panel_tiles(np.zeros((300, 1000, 3), np.uint8)) is None
    assert panel_tiles(np.zeros((1, 1, 3), np.uint8)) is None


@pytest.mark.parametrize("corner", [(0, 48), (48, 0), (20, 31)])
def test_the_patch_is_outlined_on_all_sides_and_kept(corner):
    clean, attacked, heat, other, box = pictures(corner=corner)
    attacked[:] = 128  # neither of the outline's colours
    tile = panel_tiles(panel(clean, attacked, heat, other, box, RECORD))[2]
    (row, column), size, factor = corner, box[2], len(tile) // 64
    rows, columns = np.nonzero((tile == 255).all(-1))
    for found, start in ((rows, row), (columns, column)):
        assert abs(found.min() - start * factor) <= 2
        assert abs(found.max() - ((start + size) * factor - 1)) <= 2
    dark = np.nonzero((tile == 0).all(-1))  # a dark line around the light one, at the edge as well
    for black, white in zip(dark, (rows, columns), strict=True):
        assert black.min() < white.min() and white.max() < black.max()
    inside = tile[(row + 1) * factor : (row + size - 1) * factor]
    assert (inside[:, (column + 1) * factor : (column + size - 1) * factor] == 128).all()


def difference(first, second):
    """Rows and columns where two panels differ."""
    return [np.flatnonzero((first != second).any(-1).any(axis)) for axis in (1, 0)]


def test_the_text_says_the_classes_the_probabilities_and_the_title():
    arguments = pictures()
    plain = panel(*arguments, RECORD)
    row, columns, _, _ = figures._layout(384)

    rows, across = difference(plain, panel(*arguments, RECORD | {"id": "scene_008"}))
    assert rows.size and rows.max() < row
    changed = RECORD | {"clean": {"id": 0, "name": "checks", "probability": 0.931}}
    rows, across = difference(plain, panel(*arguments, changed))
    assert rows.min() >= row + 384  # the captions of the clean image and of its map
    assert across.min() < columns[1] < across.max() < columns[2]
    changed = RECORD | {"adversarial": RECORD["adversarial"] | {"probability": 0.5}}
    rows, across = difference(plain, panel(*arguments, changed))
    assert columns[2] < across.min() and across.max() < columns[3]
    changed = RECORD | {"target": {"id": 3, "name": "dots"}}
    rows, across = difference(plain, panel(*arguments, changed))
    assert columns[3] < across.min()


def test_an_untargeted_panel_explains_the_class_seen():
    target = RECORD["target"] | {"mode": "untargeted"}
    captions = figures._captions(RECORD | {"target": target})
    assert captions[2][2].endswith("; untargeted")
    assert captions[3] == (captions[3][0], "explains: rings", "the class seen; 2.1 % in the patch")


@pytest.mark.parametrize("strokes", [False, True])
def test_long_names_end_in_an_ellipsis_within_their_tile(monkeypatch, strokes):
    without_font(monkeypatch, strokes)
    long = {"id": 9, "name": "a very long name of a category, " * 40}
    record = RECORD | {"id": "x" * 3000} | dict.fromkeys(("clean", "adversarial", "target"), long)
    record |= {"fooled_class": False}
    canvas = panel(*pictures(), record)
    row, columns, _, _ = figures._layout(384)
    for column in columns:
        assert (canvas[row + 384 :, column + 384 + 2 : column + 33 * 12 - 1] == 255).all()
    assert (canvas[:, -2:] == 255).all() and (canvas[:, :4] == 255).all()
    assert figures.fit(long["name"], 300, 24)[-1] in "….."
    assert figures.fit("short", 300, 24) == "short"


def without_font(monkeypatch, strokes):
    """Pretend to be OpenCV 4, which has stroke letters only, if `strokes`."""
    figures._letter.cache_clear()
    monkeypatch.setattr(figures, "_letter", figures._letter.__wrapped__)
    if strokes:
        monkeypatch.delattr(cv2, "FontFace", raising=False)
        monkeypatch.setattr(figures, "_is_missing", lambda letter: not letter.isascii())


@pytest.mark.parametrize("strokes", [False, True])
def test_no_letter_becomes_a_question_mark(monkeypatch, strokes):
    without_font(monkeypatch, strokes)
    names = ["Ærøskøbing – “naïve” café, Straße", "Журавль", "Ελλάδα", "日本", "हिन्दी", "ไทย", "😀"]
    for name in names:
        text = figures.fit(name, 10_000, 24)
        assert text and "?" not in text
        assert not any(not c.isascii() and figures._is_missing(c) for c in text), text
    assert figures.fit("what?", 10_000, 24) == "what?"
    assert figures.fit("caf" + "e\u0301", 10_000, 24) in ("café", "cafe")
    if strokes:
        assert figures.fit(names[0], 10_000, 24) == 'Aeroskobing - "naive" cafe, Strasse'


def test_line_breaks_and_control_letters_become_spaces():
    assert figures.fit("a\nb\tc\x00\u202e d", 10_000, 24) == "a b c d"


def test_a_panel_of_a_record_without_numbers():
    canvas = panel(*pictures(), {"id": "x", "clean": None, "error": "boom"})
    assert canvas.dtype == np.uint8 and panel_tiles(canvas) is not None


def test_percent_never_rounds_to_a_false_zero_or_hundred():
    found = [figures.percent(v) for v in (0, 1e-6, 0.0213, 0.5, 0.99999, 1, None, float("nan"))]
    assert found == ["0.0 %", "<0.1 %", "2.1 %", "50.0 %", ">99.9 %", "100.0 %", "–", "–"]


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "colormap"), [(0, "jet"), (3, "jet"), (3, "viridis")])
def test_write_pictures_writes_the_six_of_the_paper(tmp_path, scale, colormap):
    clean, attacked, heat, other, (row, column, size) = pictures()
    patch = attacked[row : row + size, column : column + size]
    write_pictures(
        tmp_path / "images" / "one",
        clean=clean,
        adversarial=attacked,
        patch=patch,
        heat_clean=heat,
        heat_adversarial=other * scale,
        box=(row, column, size),
        record=RECORD,
        colormap=colormap,
    )
    found = {path.stem: read_png(path) for path in (tmp_path / "images" / "one").iterdir()}
    assert set(found) == {"adversarial", "patch", "overlay", "mask", "heatmap", "panel"}
    values = upsample(other * scale, 64)
    np.testing.assert_array_equal(found["adversarial"], attacked)
    np.testing.assert_array_equal(found["patch"], patch)
    np.testing.assert_array_equal(found["overlay"], overlay(attacked, values, colormap))
    np.testing.assert_array_equal(found["mask"][..., 0], mask_picture(values))
    np.testing.assert_array_equal(found["heatmap"], coloured(values, colormap))
    panel = (clean, attacked, heat, other * scale, (row, column, size), RECORD, colormap)
    np.testing.assert_array_equal(found["panel"], figures.panel(*panel))
    assert panel_tiles(found["panel"]) is not None
