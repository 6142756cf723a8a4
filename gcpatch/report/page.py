"""The page of a run, or of several as one: a self-contained report.html with its pictures.

Python reads, counts and shrinks; the template report.html shows. What a run brings along reaches
the page as one block of JSON, whose strings the script only ever sets as text, and the page's
policy lets it load nothing and run nothing but its own script.
"""

import base64
import hashlib
import json
import math
import os
import re
import statistics
import zlib
from contextlib import suppress
from html import escape
from importlib.resources import files
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np

from gcpatch.data.images import read_png
from gcpatch.evaluation.intervals import rate
from gcpatch.files import atomic_write
from gcpatch.report.figures import panel_tiles, percent
from gcpatch.report.records import Note, Run, gather
from gcpatch.report.summary import number, summarize
from gcpatch.report.table import columns

CARDS, CURVES, HISTORIES = 60, 60, 500  # most pictures, lines, and losses that the median is of
FOOLED = "class", "explanation", "both"
TERMS = "total", "cross_entropy", "explanation"
UNREADABLE = OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error


# ---- files of images -----------------------------------------------------------------------------


def _folder(run, row):
    """The folder of a record's files."""
    return run.folders[row] / "images" / str(run.records[row].get("id"))


def _stored(run):
    """The rows of the images that have a folder of files, in `images/` itself and nowhere else."""
    names: dict[Path, set] = {folder: set() for folder in run.folders}
    for folder, found in names.items():
        with suppress(OSError), os.scandir(folder / "images") as entries:
            found |= {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
    return [
        row
        for row, (record, folder) in enumerate(zip(run.records, run.folders, strict=True))
        if not record.get("error") and str(record.get("id")) in names[folder]
    ]


def _spread(rows, most):
    """At most so many of a list, evenly, so that every part of a campaign is seen."""
    return rows if len(rows) <= most else [rows[n * len(rows) // most] for n in range(most)]


# ---- headline numbers ----------------------------------------------------------------------------


def _headlines(done, failed, skipped):
    """Key, label, large text, small text and rate (or None) of each headline number."""
    said = f"of {len(done) + len(failed) + skipped:,}; {len(failed):,} failed"
    said += f", {skipped:,} skipped" if skipped else ""
    yield "done", "Images done", f"{len(done):,}", said, None
    for key in FOOLED:
        found, said = _rate(done, f"fooled_{key}")
        large = percent(found and found.value)
        yield f"fooled_{key}", f"{key.capitalize()} fooled", large, said, found
    pairs = [(r.get("energy_clean"), r.get("energy_adversarial")) for r in done]
    pairs = [pair for pair in pairs if None not in map(number, pair)]
    means = [percent(statistics.fmean(column)) for column in zip(*pairs, strict=True)] or ["–"]
    said = f"mean of {len(pairs):,}, clean → attacked"
    yield "energy", "Energy in the patch", " → ".join(means), said, None
    steps = [n for r in done if (n := number(r.get("steps"))) is not None]
    ended = [c for r in done if isinstance(c := r.get("converged"), bool)]
    said = f"{sum(ended):,} of {len(ended):,} converged" if ended else "of the images done"
    yield "steps", "Median steps", f"{statistics.median(steps):,g}" if steps else "–", said, None


def _rate(done, key):
    """The share of the images that have the flag set (None over none), and of how many it is."""
    known = [flag for record in done if isinstance(flag := record.get(key), bool)]
    if not known:
        return None, "not measured"
    return rate(sum(known), len(known)), f"{sum(known):,} of {len(known):,}"


def _interval(found):
    return f"{percent(found.low)} to {percent(found.high)}"


def _headline(key, label, large, small, found):
    bar = ""
    if found:
        bar = f"""<dd>95 % interval {_interval(found)}</dd>
<dd><svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none"
 aria-hidden="true"><rect width="{100 * found.value:.1f}" height="6"/></svg></dd>"""
    return f"""<div data-metric="{key}"><dt>{label}</dt><dd class="big">{large}</dd>
<dd>{small}</dd>{bar}</div>"""


def _networks(done):
    """A table of the rates of each network, where there are several."""
    by_name: dict[str, list] = {}
    for record in done:
        if isinstance(name := record.get("model"), str):
            by_name.setdefault(name, []).append(record)
    if len(by_name) < 2:
        return ""
    rows = []
    for name, records in by_name.items():
        rates = [_rate(records, f"fooled_{key}")[0] for key in FOOLED]
        cells = [f"{percent(r.value)} ({_interval(r)})" if r else "–" for r in rates]
        rows.append([escape(name), f"{len(records):,}", *cells])
    head = "".join(f"<th scope='col'>{key.capitalize()} fooled</th>" for key in FOOLED)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    return f"""<div class="scroll"><table id="networks">
<caption>By network, with 95 % intervals</caption>
<thead><tr><th scope='col'>Network</th><th scope='col'>Images</th>{head}</tr></thead>
<tbody>
{body}</tbody></table></div>"""


# ---- pictures ------------------------------------------------------------------------------------


def _jpeg(picture):
    """RGB [size, size, 3], shrunk by a whole number to at most 256 pixels, as a data: address."""
    factor = math.ceil(len(picture) / 256)
    size = picture.shape[1] // factor, picture.shape[0] // factor
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()


def _pictures(folder):
    """Clean image, its map, attacked image, its map; without a sound panel the last two only."""
    if (folder / "panel.png").is_file():
        tiles = panel_tiles(read_png(folder / "panel.png"))
        if tiles is not None:
            return [_jpeg(tile) for tile in tiles]
    return [None, None, *(_jpeg(read_png(folder / f"{n}.png")) for n in ("adversarial", "overlay"))]


def _cards(run, stored, note):
    """Some records with pictures: their rows in the table, and the pictures."""
    cards: list[dict] = []
    unread, alone = [], []
    for row in _spread(stored, CARDS):
        try:
            pictures = _pictures(_folder(run, row))
        except UNREADABLE:
            unread.append(row)
            continue
        cards.append({"row": row, "pictures": pictures})
        if pictures[0] is None:
            alone.append(row)
    _note_images(run, unread, "pictures that cannot be read", note)
    _note_images(run, alone, "clean pictures, for want of a panel.png,", note)
    return cards


def _note_missing(run, stored, note):
    """Says of how many images that are done there are no files."""
    rows = [
        row
        for row in sorted(set(range(len(run.records))).difference(stored))
        if not run.records[row].get("error") and not run.records[row].get("skipped")
    ]
    _note_images(run, rows, "pictures that are not there", note)


def _note_images(run, rows, what, note):
    if rows:
        images = "1 image" if len(rows) == 1 else f"{len(rows):,} images"
        note(f"{what} of {images} ({_folder(run, rows[0])}{', ...' if len(rows) > 1 else ''})")


# ---- losses --------------------------------------------------------------------------------------


def _terms(stored, prefix):
    """The three losses [steps] of one image from the arrays of an .npz file."""
    terms = {term: np.ravel(stored[prefix + term]).astype(float) for term in TERMS}
    if not all(map(len, terms.values())):
        raise ValueError("no steps")
    return terms


def _histories(run, stored, note):
    """{row: {term: [steps]}} of some images, from their own history.npz or their run's file."""
    whole = {folder for folder in set(run.folders) if (folder / "histories.npz").is_file()}
    known, found = set(stored), {}
    rows = [
        row
        for row, (record, folder) in enumerate(zip(run.records, run.folders, strict=True))
        if row in known or (folder in whole and not record.get("error"))
    ]
    rows = _spread(rows, HISTORIES)
    for row in known.intersection(rows):
        with suppress(*UNREADABLE), open(_folder(run, row) / "history.npz", "rb") as file:
            found[row] = _terms(np.load(file), "")
    for folder in whole:
        path = folder / "histories.npz"
        try:
            with open(path, "rb") as file, np.load(file) as arrays:
                for row in rows:
                    if row not in found and run.folders[row] == folder:
                        with suppress(*UNREADABLE):
                            found[row] = _terms(arrays, f"{run.records[row].get('id')}/")
        except UNREADABLE:
            note(f"{path}, which cannot be read")
    return dict(sorted(found.items()))


def _picked(count):
    """The first ten of `count` steps and about 140 of the others, evenly."""
    return np.union1d(np.arange(min(10, count)), np.linspace(0, count - 1, 140).round().astype(int))


def _thin(values):
    """Floats as a list with four digits each; NaN and infinity become None."""
    return [float(f"{v:.4g}") if math.isfinite(v) else None for v in values]


def _median(curves, picked):
    """The median over `curves` at the steps `picked`; an ended curve keeps its last value."""
    table = np.stack([curve[np.minimum(picked, len(curve) - 1)] for curve in curves])
    table[~np.isfinite(table)] = np.nan
    known, found = np.isfinite(table).any(0), np.full(len(picked), np.nan)
    found[known] = np.nanmedian(table[:, known], 0)
    return found


def _curves(histories):
    """What the page draws: the losses of some images and the median of all; None without any."""
    if not histories:
        return None
    steps = max(len(curve) for terms in histories.values() for curve in terms.values())
    x = _picked(steps)
    median = {t: _thin(_median([h[t] for h in histories.values()], x)) for t in TERMS}
    images = []
    for row, terms in _spread(list(histories.items()), CURVES):
        own = _picked(min(map(len, terms.values())))
        images.append({"row": row, "x": own.tolist(), **{t: _thin(terms[t][own]) for t in TERMS}})
    all_of_them = {"x": x.tolist(), **median}
    return {"images": images, "median": all_of_them, "count": len(histories), "last": steps - 1}


# ---- the page ------------------------------------------------------------------------------------


def _clean(value):
    """`value` as JSON can say it: what is not finite becomes None, at any depth."""
    if isinstance(value, dict):
        return {key: _clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_clean(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def fill(template: str, parts: dict[str, str]) -> str:
    """A template with its gaps filled and a policy for its own style and script, no others.

    Args:
        template: a page with `{{name}}` for each part, and `{{policy}}`.
        parts: HTML by name.
    """
    policy = ["default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"]
    for tag in ("style", "script"):
        for text in re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            policy.append(f"{tag}-src 'sha256-{digest}'")
    parts = parts | {"policy": "; ".join(policy)}
    return re.sub(r"\{\{(\w+)\}\}", lambda gap: parts[gap[1]], template)


def write_report(folder: Path) -> Path:
    """Write `report.html` into the run's folder `folder` from the files in it; returns its path."""
    return write_page(gather([folder]), Path(folder))


def write_page(run: Run, folder: Path, note: Note = lambda _: None) -> Path:
    """Write the run's `report.html` into any folder; returns its path.

    Args:
        run: to report on.
        folder: where to write.
        note: told what is left out: files that are not there or cannot be read.
    """
    failed = [r for r in run.records if r.get("error")]
    done = [r for r in run.records if not r.get("error") and not r.get("skipped")]
    skipped = len(run.records) - len(done) - len(failed)
    stored = _stored(run)
    _note_missing(run, stored, note)
    data = {
        "counts": {"records": len(run.records), "done": len(done), "failed": len(failed)},
        "most": CARDS,
        "settings": run.settings,
        "summary": summarize(run.records),
        "cards": _cards(run, stored, note),
        "curves": _curves(_histories(run, stored, note)),
    }
    data = _clean(data) | {"columns": columns(run.records)}
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    settings = run.settings
    known = inner if isinstance(inner := settings.get("settings"), dict) else {}
    heading = " · ".join(str(v) for k in ("model", "objective") if (v := (known | settings).get(k)))
    lead = [f"gcpatch report of {folder.resolve().name}"]
    lead += [f"started {settings['started']}"] if settings.get("started") else []
    lead += [f"{len(settings['parts'])} runs together"] if settings.get("parts") else []
    parts = {
        "heading": escape(heading or "A run of gcpatch"),
        "lead": escape(", ".join(lead)),
        "headline": "\n".join(_headline(*line) for line in _headlines(done, failed, skipped)),
        "networks": _networks(done),
        "data": text.replace("<", "\\u003c"),  # no string can end the script block
    }
    template = files("gcpatch.report").joinpath("page.html").read_text(encoding="utf-8")
    path = folder / "report.html"
    with atomic_write(path) as draft:
        draft.write_text(fill(template, parts), encoding="utf-8", errors="replace", newline="\n")
    return path
