"""Intervals over images: Wilson's for rates (1927), Newcombe's for paired rates (1998), else the
percentile bootstrap (Efron, 1979)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

RESAMPLES, LEVEL, SEED = 4_000, 0.95, 0
DRAWN = 2**22  # numbers at a time, which bounds the memory

Statistic = Callable[..., Float[np.ndarray, "..."]]


class Estimate(NamedTuple):
    """A statistic of the images, and its interval."""

    value: float
    low: float
    high: float


def rate(hits: int, images: int, level: float = LEVEL) -> Estimate:
    """A share of the images, with Wilson's score interval, which is not [0, 0] for 0 of 6.

    Args:
        hits: how many images count.
        images: of how many.
        level: how often such intervals hold the true rate.

    Raises:
        ValueError: there are no images.
    """
    if not images:
        raise ValueError("there are no images to take an interval over")
    low, high = stats.binomtest(hits, images).proportion_ci(level, "wilson")
    return Estimate(hits / images, float(low), float(high))


def paired_difference(
    first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"], level: float = LEVEL
) -> Estimate:
    """The rate of `second` less that of `first` on the same images, with its interval.

    Newcombe's tenth method ("Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17, 1998), of the two Wilson intervals
    and the correlation: like them it is not [0, 0] where six images agree.

    Args:
        first: whether each image counts in one run.
        second: whether it does in the other, in the same order.
        level: how often such intervals hold the true difference.

    Raises:
        ValueError: there are no images.
    """
    before, low_before, high_before = rate(int(first.sum()), len(first), level)
    after, low_after, high_after = rate(int(second.sum()), len(second), level)
    down = np.array([after - low_after, high_before - before])
    up = np.array([high_after - after, before - low_before])
    both, neither = (first & second).sum(), (~first & ~second).sum()
    only_first, only_second = (first & ~second).sum(), (~first & second).sum()
    scale = first.sum() * (~first).sum() * second.sum() * (~second).sum()
    excess = both * neither - only_first * only_second
    excess = max(excess - len(first) / 2, 0) if excess > 0 else excess
    phi = excess / np.sqrt(float(scale)) if scale else 0.0
    low, high = (np.sqrt(w @ w - 2 * phi * w.prod()) for w in (down, up))
    value = (int(second.sum()) - int(first.sum())) / len(first)
    return Estimate(value, float(value - low), float(value + high))


def bootstrap(
    values: Float[np.ndarray, " n"] | Bool[np.ndarray, " n"],
    statistic: Statistic = np.mean,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Estimate:
    """A statistic with its interval, each resample as many images, drawn with replacement.

    The draws depend on the seed and on the number of images alone: cells that attack the same
    images are resampled alike. The mean of booleans is a `rate`.

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
    if values.dtype == bool and statistic is np.mean:
        return rate(int(values.sum()), len(values), level)
    value = float(statistic(values, axis=0))
    if len(values) == 1:  # of which SciPy takes no resamples
        return Estimate(value, value, value)
    with np.errstate(invalid="ignore"):  # SciPy interpolates, also between infinities
        found = stats.bootstrap(
            (values,),
            statistic,
            n_resamples=resamples,
            batch=max(1, DRAWN // len(values)),
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    tail = (1 - level) / 2
    low, high = np.quantile(found, (tail, 1 - tail), method="inverted_cdf")
    return Estimate(value, float(low), float(high))
