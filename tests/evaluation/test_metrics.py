import numpy as np
import pytest

from gcpatch.attacks.blending import with_rings
from gcpatch.evaluation import metrics

HEAT = np.array([[0.0, 3.0], [1.0, 0.0]], np.float32)
CORNER = np.array([[0.0, 1.0], [0.0, 0.0]], np.float32)
ZERO = np.zeros((2, 2), np.float32)


def test_energy_is_the_share_of_the_mass_under_the_weights():
    assert metrics.energy(HEAT, CORNER) == 0.75
    assert metrics.energy(HEAT, CORNER / 2) == 0.375
    assert metrics.energy(ZERO, CORNER) == 0


def test_the_ring_is_every_cell_that_touches_a_covered_one():
    covered = np.zeros((5, 6), np.float32)
    covered[0, 4:] = 0.3, 1.0
    ring = with_rings(covered)
    wanted = np.zeros((5, 6))
    wanted[:2, 3:] = 1
    np.testing.assert_array_equal(ring, wanted)
    heat = np.ones((5, 6), np.float32)
    assert metrics.energy(heat, np.asarray(ring)) == 6 / 30
    np.testing.assert_array_equal(with_rings(np.zeros((2, 2))), np.zeros((2, 2)))


def test_pointing_asks_where_the_maximum_lies():
    assert metrics.pointing(HEAT, CORNER)
    assert not metrics.pointing(HEAT, 1 - CORNER)
    assert not metrics.pointing(HEAT, CORNER * 0.4)
    assert not metrics.pointing(ZERO, np.ones_like(ZERO))


def test_iou_of_the_cells_at_half_of_the_maximum():
    other = np.array([[2.0, 2.0], [0.0, 0.5]], np.float32)
    assert metrics.iou(HEAT, other) == 0.5
    assert metrics.iou(HEAT, HEAT) == 1
    assert metrics.iou(HEAT, ZERO) == 0
    assert metrics.iou(ZERO, ZERO) == 1


def test_rank_correlation():
    rising = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    assert metrics.rank_correlation(rising, rising**3) == pytest.approx(1)
    assert metrics.rank_correlation(rising, -rising) == pytest.approx(-1)
    assert metrics.rank_correlation(rising, ZERO) is None


def test_object_weights_are_shares_of_cells():
    mask = np.zeros((4, 6), bool)
    mask[:2, :2] = True
    mask[2, 3] = True
    np.testing.assert_allclose(metrics.object_weights(mask, (2, 2)), [[4 / 6, 0], [0, 1 / 6]])


def test_distance_of_pictures():
    first = np.zeros((2, 2, 3), np.uint8)
    second = first.copy()
    second[0, 0] = (51, 0, 102)
    found = metrics.distance(first, second)
    assert found.linf == pytest.approx(0.4)
    assert found.l2 == pytest.approx(np.sqrt(0.2**2 + 0.4**2))
    assert found.psnr == pytest.approx(10 * np.log10(12 / 0.2))
    assert found.pixels_changed_share == 0.25
    assert metrics.distance(first, first).psnr is None
