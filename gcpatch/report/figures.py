"""The pictures of one result: maps, overlays and the panel (paper, Algorithm 1, lines 28-36).

Images are `[height, width, 3]` uint8 RGB, maps are `[h, w]` floats that are never negative.
"""

import functools
import math
import unicodedata
from bisect import bisect_right
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.spatial import KDTree

from gcpatch.data.images import write_png

INK, GREY, FAINT = (26, 26, 30), (92, 94, 102), (176, 178, 186)
JET = "jet"  # the paper's
COLORMAPS = {JET: cv2.COLORMAP_JET, "viridis": cv2.COLORMAP_VIRIDIS, "turbo": cv2.COLORMAP_TURBO}


def upsample(heat: np.ndarray, size: int) -> np.ndarray:
    """Resize `heat` [h, w] bilinearly to [size, size] and divide by its maximum; zeros stay."""
    heat = np.nan_to_num(np.asarray(heat, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    values = np.maximum(cv2.resize(heat, (size, size), interpolation=cv2.INTER_LINEAR), 0.0)
    top = values.max()
    return values / top if top > 0 else values


def coloured(values: np.ndarray, colormap: str = JET) -> np.ndarray:
    """`values` [h, w] in [0, 1] by one of OpenCV's `COLORMAPS`; uint8 [h, w, 3] RGB."""
    levels = np.rint(255 * np.clip(np.nan_to_num(values), 0, 1)).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, COLORMAPS[colormap])[..., ::-1])


def jet(values: np.ndarray) -> np.ndarray:
    """hfE as the paper has it: `values` [h, w] in [0, 1] from blue to red; uint8 [h, w, 3] RGB."""
    return coloured(values, JET)


def overlay(image: np.ndarray, values: np.ndarray, colormap: str = JET) -> np.ndarray:
    """giP = coloured(values [h, w]) + image, divided by its maximum; uint8 [h, w, 3]."""
    both = image.astype(np.float64) + coloured(values, colormap)
    return np.rint(255 * both / both.max()).astype(np.uint8)  # no colour is black: max > 0


def values_of(picture: np.ndarray, image: np.ndarray, colormap: str = JET) -> np.ndarray:
    """The values [h, w] in [0, 1] that `overlay(image, values, colormap)` shows, to about 0.01.

    The sum's maximum, a whole number, is the one that leaves colours of the map's.
    """
    colours = KDTree(coloured(np.linspace(0, 1, 256)[None], colormap)[0].astype(float))
    drawn, below = picture.reshape(-1, 3) / 255, image.reshape(-1, 3).astype(float)
    some = slice(None, None, max(1, len(drawn) // 100))

    def misfit(top: int) -> float:
        return np.median(colours.query(drawn[some] * top - below[some])[0])

    top = min(range(max(1, int(below.max())), 511), key=misfit)
    return colours.query(drawn * top - below)[1].reshape(picture.shape[:2]) / 255


def recoloured(picture: np.ndarray, image: np.ndarray, colormap: str, wanted: str) -> np.ndarray:
    """The overlay `picture` of `image`, in the colours of another map; a line on both stays."""
    line = (picture == image).all(-1, keepdims=True)
    image = np.where(line, 0, image)
    return np.where(line, picture, overlay(image, values_of(picture, image, colormap), wanted))


def mask_picture(values: np.ndarray) -> np.ndarray:
    """mfE = (values - min) / max as uint8 grey, [h, w] to [h, w]."""
    values = np.nan_to_num(np.asarray(values, np.float64))
    top = max(values.max(), np.finfo(np.float64).tiny)
    return np.rint(255 * np.clip((values - values.min()) / top, 0, 1)).astype(np.uint8)


# ---- text: OpenCV 5 draws its own TrueType font; OpenCV 4 has stroke letters, ASCII only ---------


def draw(canvas, text, place, size, weight, colour):
    """Draw `text` on `canvas` with its baseline starting at `place` (x, y), `size` pixels high."""
    if hasattr(cv2, "FontFace"):
        cv2.putText(canvas, text, place, colour, cv2.FontFace("sans"), round(size), weight)
    else:
        face, stroke = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(size * weight / 9000))
        cv2.putText(canvas, text, place, face, size / 36, colour, stroke, cv2.LINE_AA)


def text_width(text, size, weight):
    """The pixels that `draw` takes for `text`."""
    if hasattr(cv2, "FontFace"):
        face = cv2.FontFace("sans")
        return cv2.getTextSize((1 << 20, 1 << 10), text, (0, 0), face, round(size), weight)[2]
    stroke = max(1, round(size * weight / 9000))
    return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size / 36, stroke)[0][0]


@functools.cache
def _letter(letter):
    """`letter` itself, or, where the font would draw question marks, its nearest in ASCII."""
    if letter.isascii() or not _is_missing(letter):
        return letter
    kind, words = unicodedata.category(letter), unicodedata.name(letter, "").split()
    plain = unicodedata.normalize("NFKD", letter.replace("ß", "ss"))
    plain = plain.encode("ascii", "ignore").decode()
    if plain or kind[0] == "M":
        return plain
    if kind[0] in "PS":
        return '"' if kind in ("Pi", "Pf") else "-"
    if "LETTER" in words[:-1]:  # "GREEK SMALL LETTER ALPHA WITH TONOS"
        sound = words[words.index("LETTER") + 1]
        return sound.capitalize() if letter.isupper() else sound.lower()
    return f"U+{ord(letter):X}"


def _is_missing(letter):
    questions = "?" if hasattr(cv2, "FontFace") else "?" * len(letter.encode())
    pictures = [np.zeros((48, 200), np.uint8) for _ in range(2)]
    for picture, text in zip(pictures, (letter, questions), strict=True):
        draw(picture, text, (4, 36), 24, 400, 255)
    return np.array_equal(pictures[0], pictures[1])


def fit(text, width, size, weight=400):
    """`text` on one line, in letters the font has, shortened with an ellipsis to `width` pixels."""
    text = unicodedata.normalize("NFC", str(text))
    text = "".join(" " if unicodedata.category(c)[0] == "C" else _letter(c) for c in text)
    text = " ".join(text.split())
    if text_width(text, size, weight) <= width:
        return text
    lengths = range(min(len(text), 500))
    fitting = bisect_right(lengths, width, key=lambda n: text_width(text[:n] + "...", size, weight))
    return text[: max(0, fitting - 1)].rstrip() + _letter("…")


# ---- the panel -----------------------------------------------------------------------------------


def _layout(tile):
    """Where things are in a panel of four `tile` x `tile` pictures: rows, columns, unit, shape."""
    unit = tile / 32
    row, columns = round(7.2 * unit), [round(1.5 * unit) + i * round(33 * unit) for i in range(4)]
    height, width = row + round(38.2 * unit), columns[3] + round(38.6 * unit)
    return row, columns, unit, (height, width)


def panel_tiles(panel: np.ndarray) -> list[np.ndarray] | None:
    """The four pictures of a panel, [tile, tile, 3] each, in order; None if it is not a panel."""
    for tile in range(panel.shape[1] // 6, panel.shape[1] // 4):
        row, columns, _, shape = _layout(tile)
        if shape == panel.shape[:2]:
            return [panel[row : row + tile, x : x + tile] for x in columns]
    return None


def percent(share: object) -> str:
    """A share in [0, 1] as text that never rounds to a false 0 % or 100 %."""
    if not isinstance(share, (int, float)) or not math.isfinite(share):
        return "–"
    if 0 < share < 0.001 or 0.999 < share < 1:
        return "<0.1 %" if share < 0.5 else ">99.9 %"
    return f"{100 * share:.1f} %"


def _class_name(record, side):
    """The category's name of `record[side]`, or its number, or a dash."""
    found = record.get(side) or {}
    return found.get("name") or (f"class {found['id']}" if found.get("id") is not None else "–")


def _captions(record):
    """Per tile: the heading above it, the line below it and the grey line below that."""
    clean, attacked, target = (_class_name(record, s) for s in ("clean", "adversarial", "target"))
    mode = (record.get("target") or {}).get("mode")  # `untargeted`, or none
    chance = [percent((record.get(s) or {}).get("probability")) for s in ("clean", "adversarial")]
    reached = mode or ("target reached" if record.get("fooled_class") else f"target: {target}")
    explained = "the class seen" if mode else "the target"
    share = percent(record.get("energy_adversarial"))
    shown = "no evidence for it" if record.get("map_empty") else f"{share} in the patch"
    return [
        ("Clean image", clean, f"probability {chance[0]}"),
        ("Grad-CAM, clean image", f"explains: {clean}", "the predicted class"),
        ("Attacked image", attacked, f"probability {chance[1]}; {reached}"),
        ("Grad-CAM, attacked image", f"explains: {target}", f"{explained}; {shown}"),
    ]


def _outline(picture, box, factor):
    """Draw the patch's border, white on black, on an enlarged `picture`, in place."""
    row, column, size = box
    line, last = max(1, len(picture) // 200), len(picture) - 1
    for i in range(2 * line):  # from the outside in, sharp corners, whole at the picture's edge
        start = [max(v * factor - line, 0) + i for v in (column, row)]
        end = [min((v + size) * factor - 1 + line, last) - i for v in (column, row)]
        cv2.rectangle(picture, start, end, [0 if i < line else 255] * 3, 1)


def panel(
    clean: np.ndarray,
    adversarial: np.ndarray,
    heat_clean: np.ndarray,
    heat_adversarial: np.ndarray,
    box: tuple[int, int, int] | None,
    record: dict[str, Any],
    colormap: str = JET,
) -> np.ndarray:
    """One row: clean image, its Grad-CAM, attacked image, its Grad-CAM; uint8 [height, width, 3].

    `heat_clean` explains the predicted class of `clean`, `heat_adversarial` the target class of
    `adversarial`; `box` is a square patch's (row, column, size), `record` a line of results.jsonl.
    """
    factor = max(1, math.ceil(384 / len(clean)))
    tile = factor * len(clean)
    row, columns, unit, shape = _layout(tile)
    canvas = np.full((*shape, 3), 255, np.uint8)
    big = [np.repeat(np.repeat(p, factor, 0), factor, 1) for p in (clean, adversarial)]
    maps = [upsample(heat, tile) for heat in (heat_clean, heat_adversarial)]
    tiles = [big[0], overlay(big[0], maps[0], colormap), big[1].copy()]
    tiles.append(overlay(big[1], maps[1], colormap))
    for picture in tiles[2:] if box else ():
        _outline(picture, box, factor)

    def write(text, x, y, width, size, weight=400, colour=INK):
        draw(canvas, fit(text, width, size * unit, weight), (x, y), size * unit, weight, colour)

    for picture, x, lines in zip(tiles, columns, _captions(record), strict=True):
        canvas[row : row + tile, x : x + tile] = picture
        write(lines[0], x, row - round(0.8 * unit), tile, 1.9, 600)
        write(lines[1], x, row + tile + round(2.2 * unit), tile, 1.9)
        write(lines[2], x, row + tile + round(4.5 * unit), tile, 1.75, colour=GREY)
    about = " · ".join(str(record[k]) for k in ("model", "objective") if record.get(k))
    about = fit(about, tile, 1.9 * unit)
    about_x = columns[3] + tile - text_width(about, 1.9 * unit, 400)
    write(
        record.get("id") or record.get("source") or "",
        columns[0],
        round(2.9 * unit),
        about_x - columns[0] - round(unit),
        2.3,
        700,
    )
    write(about, about_x, round(2.9 * unit), tile, 1.9, colour=GREY)
    _colour_bar(canvas, columns[3] + tile + round(0.8 * unit), row, tile, unit, write, colormap)
    return canvas


def _colour_bar(canvas, x, row, tile, unit, write, colormap):
    end = x + round(unit)
    shades = np.linspace(1, 0, tile)[:, None].repeat(end - x, 1)
    canvas[row : row + tile, x:end] = coloured(shades, colormap)
    cv2.rectangle(canvas, (x, row), (end - 1, row + tile - 1), FAINT, 1)
    write("max", end + round(0.4 * unit), row + round(1.3 * unit), 1 << 20, 1.7)
    write("0", end + round(0.4 * unit), row + tile - 1, 1 << 20, 1.7)


def write_pictures(
    folder: Path,
    *,
    clean: np.ndarray,
    adversarial: np.ndarray,
    patch: np.ndarray,
    heat_clean: np.ndarray,
    heat_adversarial: np.ndarray,
    box: tuple[int, int, int] | None,
    record: dict[str, Any],
    colormap: str = JET,
) -> None:
    """Write a result's six pictures into `folder`: images and `patch` uint8 RGB, maps [h, w]."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values = upsample(heat_adversarial, len(adversarial))
    pictures = {
        "adversarial": adversarial,
        "patch": patch,
        "overlay": overlay(adversarial, values, colormap),
        "mask": mask_picture(values),
        "heatmap": coloured(values, colormap),
        "panel": panel(clean, adversarial, heat_clean, heat_adversarial, box, record, colormap),
    }
    for name, picture in pictures.items():
        write_png(folder / f"{name}.png", picture)
