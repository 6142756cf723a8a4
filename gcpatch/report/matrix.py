"""What `transfer` found, as a table, a CSV file, and a picture of coloured cells."""

import csv
import json
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gcpatch.data.images import write_png
from gcpatch.evaluation.transfer import GROUP, MEASURED
from gcpatch.files import atomic_write
from gcpatch.report.figures import FAINT, GREY, INK, draw, fit, text_width

HEAD = (*GROUP, "images", "class", "explanation", "energy", "pointing", "area")
TITLES = {
    "fooled_class": "class fooled",
    "fooled_explanation": "explanation fooled",
    "energy": "heat in the patch",
    "pointing": "maximum in the patch",
}
CELL, LINE, MARGIN, LETTERS = (92, 30), 30, 24, 15  # pixels


def line(row: dict[str, Any]) -> list[str]:
    """A row of the table: means with their intervals."""
    means = [interval(row[name]) for name in (*MEASURED, "area")]
    return [*(str(row[name]) for name in GROUP), str(row["images"]), *means]


def interval(mean: dict[str, float] | None) -> str:
    """A mean with its interval in brackets."""
    return "-" if mean is None else f"{mean['value']:.2f} [{mean['low']:.2f}, {mean['high']:.2f}]"


def write(folder: Path, rows: Sequence[dict[str, Any]], means: Sequence[dict[str, Any]]) -> None:
    """Writes `transfer.jsonl` (a row an image), `transfer.csv` (means) and `transfer.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "transfer.jsonl") as draft:
        draft.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with atomic_write(folder / "transfer.csv") as draft, open(draft, "w", newline="") as file:
        table = csv.writer(file)
        names = [
            f"{name}_{part}" for name in (*MEASURED, "area") for part in ("mean", "low", "high")
        ]
        table.writerow([*GROUP, "images", *names])
        for row in means:
            values = [row[name] or {} for name in (*MEASURED, "area")]
            parts = [mean.get(part, "") for mean in values for part in ("value", "low", "high")]
            table.writerow([*(row[name] for name in GROUP), row["images"], *parts])
    write_png(folder / "transfer.png", picture(means))


def picture(means: Sequence[dict[str, Any]]) -> np.ndarray:
    """A cell for each mean, uint8 `[height, width, 3]`: networks beside, all else below each other.

    Dark blue is 0, yellow 1 (cividis, which colour-blind eyes read too).
    """
    networks = list(dict.fromkeys(row["network"] for row in means))
    key = itemgetter("run", "objective", "defence", "method")
    lines: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in means:
        lines.setdefault(key(row), []).append(row)
    labels = [" · ".join(part for part in names if part != "none") for names in lines]
    left = MARGIN + max(text_width(label, LETTERS, 400) for label in labels) + 16
    block = len(networks) * CELL[0] + MARGIN
    top = MARGIN + 2 * LINE
    canvas = np.full(
        (top + len(lines) * CELL[1] + 70, left + len(MEASURED) * block, 3), 255, np.uint8
    )
    for y, label in enumerate(labels):
        draw(canvas, label, (MARGIN, top + y * CELL[1] + 21), LETTERS, 400, INK)
    for b, name in enumerate(MEASURED):
        start = left + b * block
        draw(canvas, TITLES[name], (start, MARGIN + LETTERS), LETTERS + 2, 600, INK)
        for x, network in enumerate(networks):
            place = (start + x * CELL[0] + 2, MARGIN + LINE + LETTERS + 4)
            draw(
                canvas,
                fit(network.removeprefix("mini_"), CELL[0] - 4, LETTERS - 1),
                place,
                LETTERS - 1,
                400,
                GREY,
            )
            for y, rows in enumerate(lines.values()):
                found = [row[name] for row in rows if row["network"] == network]
                corner = (start + x * CELL[0], top + y * CELL[1])
                _cell(canvas, corner, found[0] if found else None)
    _scale(canvas, left, top + len(lines) * CELL[1] + 16)
    return canvas


def _cell(canvas: np.ndarray, corner: tuple[int, int], mean: dict[str, float] | None) -> None:
    x, y = corner
    if mean is None:
        draw(canvas, "-", (x + CELL[0] // 2 - 4, y + 21), LETTERS, 400, FAINT)
        return
    canvas[y : y + CELL[1] - 2, x : x + CELL[0] - 2] = _colour(np.asarray([mean["value"]]))[0]
    text = f"{mean['value']:.2f}"
    ink = (255, 255, 255) if mean["value"] < 0.55 else INK
    place = (x + (CELL[0] - text_width(text, LETTERS, 600)) // 2, y + 20)
    draw(canvas, text, place, LETTERS, 600, ink)


def _scale(canvas: np.ndarray, x: int, y: int) -> None:
    canvas[y : y + 12, x : x + 256] = _colour(np.linspace(0, 1, 256))
    for text, place in (("0", 0), ("1", 250), ("share of the images, mean share of the heat", 275)):
        draw(canvas, text, (x + place, y + (30 if place < 275 else 12)), LETTERS - 1, 400, GREY)


def _colour(values: np.ndarray) -> np.ndarray:
    levels = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)[:, None]
    return cv2.applyColorMap(levels, cv2.COLORMAP_CIVIDIS)[:, 0, ::-1]
