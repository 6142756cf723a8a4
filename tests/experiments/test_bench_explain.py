"""The bench of explanations: what it compares, and that three libraries give the same maps."""

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from experiments.bench import explain

MAPS = np.random.default_rng(0).random((3, 7, 7), np.float32) ** 4


def test_what_pytorch_grad_cam_scales_is_scaled_before_it_is_compared():
    one = (MAPS - MAPS.min((1, 2), keepdims=True)) / np.ptp(MAPS, (1, 2), keepdims=True)
    wide = np.stack([cv2.resize(heat, (28, 28)) for heat in one])
    theirs = wide - wide.min((1, 2), keepdims=True)
    theirs /= theirs.max((1, 2), keepdims=True)
    assert explain.difference(5 * MAPS, theirs) < 1e-6
    assert explain.difference(MAPS[::-1], theirs) > 0.1
    assert explain.difference(MAPS, MAPS) == 0
    assert explain.difference(0.9 * MAPS, MAPS) == pytest.approx(0.1)


def test_the_last_batch_is_what_is_left(tmp_path):
    np.save(tmp_path / "scenes.npy", np.full((5, 4, 4, 3), 51, np.uint8))
    found = [*explain.batches(tmp_path / "scenes.npy", 2, 3)]
    assert [len(images) for images, _ in found] == [2, 2, 1]
    assert [label for _, labels in found for label in labels] == [0, 1, 2, 0, 1]
    assert found[0][0].dtype == np.float32 and (found[0][0] == np.float32(0.2)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mini_vgg_bn", "mini_resnext"])
def test_three_libraries_give_the_same_maps(name, tmp_path):
    explain.draw_scenes(tmp_path / "scenes.npy", 3, 224)
    rows, maps = {}, {}
    for method in explain.METHODS:
        for library in explain.libraries_with(method):
            out = tmp_path / f"{library}.npy"
            row = explain.measure(library, name, method, tmp_path / "scenes.npy", 2, out)
            assert row["scenes"] == 3 and row["seconds"] > 0
            rows[method, library], maps[method, library] = row, np.load(out)
    assert len(rows) == 5
    for (method, library), found in maps.items():
        assert explain.difference(maps[method, "gcpatch"], found) < 1e-3, library
