"""One image and its maps in a row."""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from gcpatch.report.figures import GREY, INK, draw, fit, percent

MEASURES = ("deletion", "insertion", "road")  # of a map, in this order; there may be none
TILE = 384  # pixels a side, at least
MARGIN, LINE = 12, 26

Pixels = UInt8[np.ndarray, "h w 3"]


def panel(
    image: Pixels, overlays: dict[str, Pixels], record: dict[str, Any]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image and, by method, its map over it, with what is said of each below.

    Args:
        image: as the network takes it.
        overlays: a picture for each method.
        record: its line in results.jsonl.
    """
    factor = max(1, -(-TILE // len(image)))
    side = factor * len(image)
    lines = [
        ("Image", f"taken for: {record['top']['name']}", percent(record["top"]["probability"]))
    ]
    explained = f"explains: {record['label']['name']}"
    lines += [(name, explained, measures(record["maps"][name])) for name in overlays]
    height, step = MARGIN + LINE + side + 2 * LINE + MARGIN, side + MARGIN
    canvas = np.full((height, MARGIN + step * len(lines), 3), 255, np.uint8)
    for n, (picture, said) in enumerate(zip([image, *overlays.values()], lines, strict=True)):
        x, y = MARGIN + n * step, MARGIN + LINE
        canvas[y : y + side, x : x + side] = picture.repeat(factor, 0).repeat(factor, 1)
        for text, below, weight, colour in zip(
            said, (-8, side + 22, side + 46), (600, 400, 400), (INK, INK, GREY), strict=True
        ):
            draw(canvas, fit(text, side, 20, weight), (x, y + below), 20, weight, colour)
    return canvas


def measures(found: dict[str, Any]) -> str:
    """How faithful a map is, in one line; nothing where it was not measured."""
    return ", ".join(f"{key} {found[key]:.3f}" for key in MEASURES if key in found)
