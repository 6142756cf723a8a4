"""Intervals by the percentile bootstrap over images (Efron, 1979)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

RESAMPLES, LEVEL, SEED = 4_000, 0.95, 0

Statistic = Callable[..., Float[np.ndarray, "..."]]


class Estimate(NamedTuple):
    """A statistic of the images, and the interval that its resamples fill."""

    value: float
    low: float
    high: float


def bootstrap(
    values: Float[np.ndarray, " n"],
    statistic: Statistic = np.mean,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Estimate:
    """A statistic with its interval, each resample as many images, drawn with replacement.

    The draws depend on the seed and on the number of images alone: cells that attack the same
    images are resampled alike.

    Args:
        values: one for each image.
        statistic: as `np.mean` and `np.median`, along `axis`; of NaN-free values.
        level: the share of the resamples inside, as many of the rest on either side.
        resamples: how many.
        seed: of the draws.

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("there are no images to take an interval over")
    rows = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    found = statistic(values[rows], axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(found, (tail, 1 - tail), method="inverted_cdf")
    return Estimate(float(statistic(values, axis=0)), float(low), float(high))
