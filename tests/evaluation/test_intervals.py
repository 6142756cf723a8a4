from itertools import product
from math import factorial, prod

import numpy as np
import pytest

from gcpatch.evaluation.intervals import bootstrap, paired_difference, rate


def test_two_images_by_hand():
    # The mean of two draws from {0, 1} is 0, 1/2 or 1, with odds 1/4, 1/2 and 1/4.
    values = np.array([0.0, 1.0])
    assert bootstrap(values, level=0.95) == (0.5, 0, 1)
    assert bootstrap(values, level=0.4) == (0.5, 0.5, 0.5)  # from 0.3 to 0.7


def test_the_median_of_three_by_hand():
    # It is 1 where two or three draws are 1: 7/27, which is more than 0.2 and less than 0.3.
    values = np.array([1.0, 2.0, 4.0])
    assert bootstrap(values, np.median, level=0.6) == (2, 1, 4)
    assert bootstrap(values, np.median, level=0.4) == (2, 2, 2)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(7)
    for level in (0.95, 0.8):
        samples = generator.exponential(2.0, (400, 256))
        found = [bootstrap(sample, level=level, resamples=1000) for sample in samples]
        covered = np.mean([low <= 2 <= high for _, low, high in found])
        assert covered == pytest.approx(level, abs=0.04)


def test_its_width_is_the_standard_error():
    values = np.random.default_rng(1).normal(5, 3, 1000)
    value, low, high = bootstrap(values)
    assert value == values.mean()
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(1000), rel=0.05)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(2).normal(size=50)
    assert bootstrap(values) == bootstrap(values)
    assert bootstrap(values, seed=1) != bootstrap(values)


def test_median_beyond_the_last_step_is_infinite():
    assert bootstrap(np.array([1.0, np.inf, np.inf]), np.median)[0] == np.inf


def test_no_images():
    with pytest.raises(ValueError, match="no images"):
        bootstrap(np.zeros(0))


def test_wilsons_interval_by_hand():
    # 0 of 6: the low end is 0, the high end z^2 / (n + z^2); symmetric for 6 of 6.
    z2 = 1.959964**2
    assert rate(0, 6) == pytest.approx((0, 0, z2 / (6 + z2)), abs=1e-6)
    assert rate(6, 6) == pytest.approx((1, 6 / (6 + z2), 1), abs=1e-6)
    half = np.sqrt(z2 / 4 / (100 + z2))  # of 50 of 100, around 1/2
    assert rate(50, 100) == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-6)
    with pytest.raises(ValueError, match="no images"):
        rate(0, 0)


def test_the_mean_of_booleans_is_a_rate():
    assert bootstrap(np.zeros(6, bool)) == rate(0, 6)
    assert bootstrap(np.array([True, False, True])) == rate(2, 3)
    assert bootstrap(np.zeros(6)) == (0, 0, 0)


def test_one_image_is_its_own_interval():
    assert bootstrap(np.array([3.0])) == (3, 3, 3)


def pairs(both, only_first, only_second, neither):
    counts = both, only_first, only_second, neither
    flags = [True, True, False, False], [True, False, True, False]
    return (np.repeat(one, counts) for one in flags)


def test_newcombes_interval_by_hand():
    # 48 and 38 of 50, 36 in both: the first is 0.96 [0.865, 0.989], the second 0.76 [0.626, 0.857].
    # 36 * 0 - 12 * 2 is negative, so that phi = -24 / sqrt(48 * 2 * 38 * 12) = -0.1147.
    down, up = (0.7600 - 0.6259, 0.9890 - 0.9600), (0.8570 - 0.7600, 0.9600 - 0.8654)
    low, high = (np.sqrt(a**2 + b**2 + 2 * 0.1147 * a * b) for a, b in (down, up))
    found = paired_difference(*pairs(36, 12, 2, 0))
    assert found == pytest.approx((-0.2, -0.2 - low, -0.2 + high), abs=1e-3)
    value, low, high = paired_difference(*pairs(36, 2, 12, 0))
    assert (-value, -high, -low) == pytest.approx(tuple(found))
    assert paired_difference(*pairs(0, 0, 5, 0)).value == 1
    with pytest.raises(ValueError, match="no images"):
        paired_difference(*pairs(0, 0, 0, 0))


def test_images_that_agree_leave_room_for_some_that_would_not():
    value, low, high = paired_difference(*pairs(6, 0, 0, 0))
    assert value == 0 and high == -low > 0.3
    assert paired_difference(*pairs(50, 0, 0, 50)).high < 0.05  # phi is near 1 there


@pytest.mark.parametrize("odds", [(0.4, 0.2, 0.2, 0.2), (0.25, 0.05, 0.45, 0.25)])
def test_newcombes_interval_covers_the_truth_as_often_as_it_says(odds):
    n, covered = 8, 0.0
    for counts in product(range(n + 1), repeat=4):
        if sum(counts) == n:
            _, low, high = paired_difference(*pairs(*counts))
            ways = factorial(n) // prod(map(factorial, counts))
            chance = ways * prod(p**k for p, k in zip(odds, counts, strict=True))
            covered += chance * (low <= odds[2] - odds[1] <= high)
    assert 0.93 < covered < 0.99
