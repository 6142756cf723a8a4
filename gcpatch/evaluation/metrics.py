"""What an attack achieved, measured on the host from maps and 8-bit images."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import stats

Map = Float[np.ndarray, "h w"]
Picture = UInt8[np.ndarray, "h w 3"]


def energy(heat: Map, weights: Map) -> float:
    """The share of the map's mass under the weights; 0 for an all-zero map."""
    total = float(heat.sum())
    return float((heat * weights).sum()) / total if total > 0 else 0.0


def pointing(heat: Map, coverage: Map) -> bool:
    """Whether the map's maximum lies in the patch: in a cell that it covers by half or more."""
    return bool(heat.max() > 0 and coverage.ravel()[heat.argmax()] >= 0.5)


def iou(first: Map, second: Map) -> float:
    """Intersection over union of the cells at or above half of each map's maximum."""
    hot = [heat >= heat.max() / 2 if heat.max() > 0 else heat > 0 for heat in (first, second)]
    union = np.logical_or(*hot).sum()
    return float(np.logical_and(*hot).sum() / union) if union else 1.0


def rank_correlation(first: Map, second: Map) -> float | None:
    """Spearman's rank correlation of the cells; None where a map is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(stats.spearmanr(first.ravel(), second.ravel()).statistic)


def object_weights(mask: Bool[np.ndarray, "height width"], cells: tuple[int, int]) -> Map:
    """The share of each of the map's cells that an object covers."""
    rows, columns = (length // count for length, count in zip(mask.shape, cells, strict=True))
    return mask.reshape(cells[0], rows, cells[1], columns).mean((1, 3))


class Distance(NamedTuple):
    """How far two pictures are apart, in pixels of [0, 1]; PSNR in decibels, None if equal."""

    linf: float
    l2: float
    psnr: float | None
    pixels_changed_share: float


def distance(first: Picture, second: Picture) -> Distance:
    """The distance of two 8-bit pictures."""
    difference = (first.astype(np.float64) - second) / 255
    square = float((difference**2).mean())
    return Distance(
        float(np.abs(difference).max()),
        float(np.sqrt((difference**2).sum())),
        10 * float(np.log10(1 / square)) if square else None,
        float((difference != 0).any(-1).mean()),
    )
