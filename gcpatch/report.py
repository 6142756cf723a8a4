"""The page of a run: one self-contained report.html from its records, losses and pictures.

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

from gcpatch.errors import UserError
from gcpatch.images import read_png
from gcpatch.render import panel_tiles, percent

CARDS, ROWS, CURVES, FAILURES, HISTORIES = 60, 2000, 60, 200, 2000  # most of each on one page
TERMS = "total", "cross_entropy", "explanation"
UNREADABLE = OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error


class ReportError(UserError):
    """A run's folder cannot be reported on; the message says why in one sentence."""


# ---- reading -------------------------------------------------------------------------------------


def read_records(run: Path) -> list[dict]:
    """The records of results.jsonl as dicts; a last line that a kill cut short is left out."""
    run = Path(run)
    if not run.is_dir():
        raise ReportError(f"There is no folder {run}.")
    path = run / "results.jsonl"
    if not path.is_file():
        raise ReportError(f"{run} has no results.jsonl, so it is not the folder of a run.")
    lines = [(n, line) for n, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()]
    records = [_object(line) for _, line in lines]
    if None in records[:-1]:
        number = lines[records.index(None)][0]
        raise ReportError(f"{path}, line {number}: this is not a record; mend or delete the line.")
    return [record for record in records if record is not None]


def _object(text):
    """The JSON object in `text` (bytes), or None."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _settings(path):
    """The JSON object in the file `path`."""
    if not path.is_file():
        raise ReportError(f"{path.parent} has no {path.name}, so it is not the folder of a run.")
    found = _object(path.read_bytes())
    if found is None:
        raise ReportError(f"{path} does not hold one JSON object.")
    return found


def _latest(records):
    """One record per id, the last one written, in the order of the file."""
    last = {str(record.get("id", n)): n for n, record in enumerate(records)}
    return [records[n] for n in sorted(last.values())]


def _folder(run, record):
    """The folder of a record's files; ValueError for an id that leads out of the run."""
    home = (run / "images").resolve()
    folder = (home / str(record.get("id"))).resolve()
    if home not in folder.parents:
        raise ValueError(f"{folder} is not in the run")
    return folder


def _terms(stored, prefix):
    """The three losses [steps] of one image from the arrays of an .npz file."""
    terms = {term: np.ravel(stored[prefix + term]).astype(float) for term in TERMS}
    if not all(map(len, terms.values())):
        raise ValueError("no steps")
    return terms


def _histories(run, done):
    """{id: {term: [steps]}} from histories.npz or, before a run ends, each image's history.npz."""
    found = {}
    with suppress(*UNREADABLE), open(run / "histories.npz", "rb") as file, np.load(file) as stored:
        keys = {key.rpartition("/")[0] for key in stored.files}
        for name in [n for r in done if (n := str(r.get("id"))) in keys][:HISTORIES]:
            with suppress(*UNREADABLE):
                found[name] = _terms(stored, f"{name}/")
    for record in [r for r in done if str(r.get("id")) not in found][: HISTORIES - len(found)]:
        with suppress(*UNREADABLE), open(_folder(run, record) / "history.npz", "rb") as file:
            found[str(record["id"])] = _terms(np.load(file), "")
    return found


# ---- headline numbers ----------------------------------------------------------------------------


def _number(value):
    """`value` if it is a finite number, else None; true and false are not numbers."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if plain and abs(value) < 1e300 else None


def _headlines(done, failed):
    """Key, label, large text, small text and share (or None) of each headline number."""
    said = f"of {len(done) + len(failed):,}; {len(failed):,} failed"
    yield "done", "Images done", f"{len(done):,}", said, None
    for key in ("class", "explanation", "both"):
        known = [f for r in done if isinstance(f := r.get(f"fooled_{key}"), bool)]
        share = sum(known) / len(known) if known else None
        said = f"{sum(known):,} of {len(known):,}" if known else "not measured"
        yield f"fooled_{key}", f"{key.capitalize()} fooled", percent(share), said, share
    pairs = [(r.get("energy_clean"), r.get("energy_adversarial")) for r in done]
    pairs = [pair for pair in pairs if None not in map(_number, pair)]
    means = [percent(statistics.fmean(column)) for column in zip(*pairs, strict=True)] or ["–"]
    said = f"mean of {len(pairs):,}, clean → attacked"
    yield "energy", "Energy in the patch", " → ".join(means), said, None
    steps = [n for r in done if (n := _number(r.get("steps"))) is not None]
    ended = [c for r in done if isinstance(c := r.get("converged"), bool)]
    said = f"{sum(ended):,} of {len(ended):,} converged" if ended else "of the images done"
    yield "steps", "Median steps", f"{statistics.median(steps):,g}" if steps else "–", said, None


def _headline(key, label, large, small, share):
    bar = f"""<dd><svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none"
 aria-hidden="true"><rect width="{100 * (share or 0):.1f}" height="6"/></svg></dd>"""
    return f"""<div data-metric="{key}"><dt>{label}</dt><dd class="big">{large}</dd>
<dd>{small}</dd>{"" if share is None else bar}</div>"""


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


def _cards(run, done):
    """The first records that have pictures in the run's folder, with them."""
    cards = []
    for record in done if (run / "images").is_dir() else ():
        with suppress(*UNREADABLE):
            cards.append({"record": record, "pictures": _pictures(_folder(run, record))})
        if len(cards) == CARDS:
            break
    return cards


# ---- losses --------------------------------------------------------------------------------------


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
    """What the page draws: the first images' losses and the median of all; None without any."""
    if not histories:
        return None
    steps = max(len(curve) for terms in histories.values() for curve in terms.values())
    x = _picked(steps)
    median = {t: _thin(_median([h[t] for h in histories.values()], x)) for t in TERMS}
    images = []
    for name, terms in list(histories.items())[:CURVES]:
        own = _picked(min(map(len, terms.values())))
        images.append({"id": name, "x": own.tolist(), **{t: _thin(terms[t][own]) for t in TERMS}})
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


def _fill(parts):
    """The template with its gaps filled and a policy for its own style and script, no others."""
    template = files("gcpatch").joinpath("report.html").read_text(encoding="utf-8")
    policy = ["default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"]
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        policy.append(f"{tag}-src 'sha256-{digest}'")
    parts = parts | {"policy": "; ".join(policy)}
    return re.sub(r"\{\{(\w+)\}\}", lambda gap: parts[gap[1]], template)


def write_report(run: Path) -> Path:
    """Write `report.html` into the run's folder `run` from the files in it; returns its path."""
    run = Path(run)
    records, settings = _latest(read_records(run)), _settings(run / "run.json")
    summary = _settings(run / "summary.json") if (run / "summary.json").is_file() else {}
    failed = [r for r in records if r.get("error")]
    done = [r for r in records if not r.get("error")]
    data = {
        "counts": {"records": len(records), "done": len(done), "failed": len(failed)},
        "most": CARDS,
        "settings": settings,
        "summary": summary,
        "records": records[:ROWS],
        "failures": failed[:FAILURES],
        "cards": _cards(run, done),
        "curves": _curves(_histories(run, done)),
    }
    text = json.dumps(_clean(data), allow_nan=False, separators=(",", ":"))
    known = settings.get("settings") if isinstance(settings.get("settings"), dict) else {}
    heading = " · ".join(str(v) for k in ("model", "objective") if (v := (known | settings).get(k)))
    started = [f"started {settings['started']}"] if settings.get("started") else []
    parts = {
        "heading": escape(heading or "A run of gcpatch"),
        "lead": escape(", ".join([f"gcpatch report of {run.resolve().name}", *started])),
        "headline": "\n".join(_headline(*line) for line in _headlines(done, failed)),
        "data": text.replace("<", "\\u003c"),  # no string can end the script block
    }
    path, part = run / "report.html", run / "report.html.part"
    part.write_text(_fill(parts), encoding="utf-8", errors="replace", newline="\n")
    os.replace(part, path)
    return path
