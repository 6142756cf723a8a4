"""The page of a run, or of several as one: a self-contained report.html with its pictures.

Python reads, counts and shrinks; the template shows. What a run brings along reaches the page as
one block of JSON, whose strings the script only ever sets as text, and the page's policy lets it
load nothing and run nothing but its own script.
"""

import base64
import hashlib
import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from gcpatch.evaluation.intervals import rate
from gcpatch.files import atomic_write
from gcpatch.report import cards, curves
from gcpatch.report.figures import percent
from gcpatch.report.records import Note, Run, gather
from gcpatch.report.summary import number, summarize
from gcpatch.report.table import columns

FOOLED = "class", "explanation", "both"
RING = "fooled_explanation_ring"
MAPS = {
    "jet": "blue for 0 and red",
    "viridis": "violet for 0 and yellow",
    "turbo": "dark violet for 0 and red",
}

# ---- headline numbers ----------------------------------------------------------------------------


def _headlines(done, failed, skipped):
    """Key, label, large text, small text and rate (or None) of each headline number."""
    said = f"of {len(done) + len(failed) + skipped:,}; {len(failed):,} failed"
    said += f", {skipped:,} skipped" if skipped else ""
    yield "done", "Images done", f"{len(done):,}", said, None
    for key in FOOLED:
        found, said = _rate(done, f"fooled_{key}")
        ring, _ = _rate(done, RING) if key == "explanation" else (None, "")
        said += f"; {percent(ring.value)} with the patch's ring" if ring else ""
        large = percent(found and found.value)
        yield f"fooled_{key}", f"{key.capitalize()} fooled", large, said, found
    large, count = _energy(done, "energy")
    ring, _ = _energy(done, "energy_ring")
    said = f"mean of {count:,}, clean → attacked" + (f"; with its ring {ring}" if ring else "")
    yield "energy", "Energy in the patch", large or "–", said, None
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


def _energy(done, key):
    """The mean shares of the clean and the attacked maps, as text, and of how many images."""
    pairs = [(r.get(f"{key}_clean"), r.get(f"{key}_adversarial")) for r in done]
    pairs = [pair for pair in pairs if None not in map(number, pair)]
    means = [percent(statistics.fmean(column)) for column in zip(*pairs, strict=True)]
    return " → ".join(means), len(pairs)


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
    """A table of the rates and energies of each network, where there are several."""
    by_name: dict[str, list] = {}
    for record in done:
        if isinstance(name := record.get("model"), str):
            by_name.setdefault(name, []).append(record)
    if len(by_name) < 2:
        return ""
    rows = []
    for name, records in by_name.items():
        rates = [_rate(records, key)[0] for key in (*(f"fooled_{k}" for k in FOOLED), RING)]
        cells = [f"{percent(r.value)} ({_interval(r)})" if r else "–" for r in rates]
        energy = _energy(records, "energy")[0] or "–"
        rows.append([escape(name), f"{len(records):,}", *cells, energy])
    head = ["Network", "Images", *(f"{key.capitalize()} fooled" for key in FOOLED)]
    head += ["Explanation fooled, with the patch's ring", "Energy, clean → attacked"]
    return html_table("networks", "By network, with 95 % intervals", head, rows)


# ---- the page ------------------------------------------------------------------------------------


def html_table(
    identity: str, caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]
) -> str:
    """A table that scrolls sideways by itself; its caption, head and cells are HTML.

    Args:
        identity: its id.
        caption: above it.
        head: of its columns.
        rows: each with its own head first.
    """
    cells = "".join(f"<th scope='col'>{text}</th>" for text in head)
    body = "".join(
        f"<tr><th scope='row'>{name}</th>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n"
        for name, *row in rows
    )
    return f"""<div class="scroll" role="region" aria-labelledby="{identity}-name" tabindex="0">
<table class="plain" id="{identity}"><caption id="{identity}-name">{caption}</caption>
<thead><tr>{cells}</tr></thead>
<tbody>
{body}</tbody></table></div>"""


def clean(value: Any) -> Any:
    """`value` as JSON can say it: what is not finite becomes None, at any depth."""
    if isinstance(value, dict):
        return {key: clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [clean(inner) for inner in value]
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


def write(path: Path, name: str, parts: dict[str, str], data: dict[str, Any]) -> None:
    """Write a page of the template `name`: its HTML parts, and what its script shows.

    Raises:
        OSError: the file cannot be written.
    """
    folder = files("gcpatch.report") / "templates"
    own, *shared = (
        (folder / file).read_text("utf-8")
        for file in (f"{name}.html", "style.css", "table.html", "common.js", f"{name}.js")
    )
    style, table, *scripts = shared
    script = "\n".join(["(() => {", '"use strict";', *scripts, "})();\n"])
    template = own.replace("{{style}}", style).replace("{{table}}", table)
    template = template.replace("{{script}}", script)
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    parts = parts | {"data": text.replace("<", "\\u003c")}  # no string can end the script block
    with atomic_write(path) as draft:
        draft.write_text(fill(template, parts), encoding="utf-8", errors="replace", newline="\n")


def write_report(folder: Path) -> Path:
    """Write `report.html` into the run's folder `folder` from the files in it; returns its path."""
    return write_page(gather([folder]), Path(folder))


def write_page(
    run: Run, folder: Path, note: Note = lambda _: None, colormap: str | None = None
) -> Path:
    """Write the run's `report.html` into any folder; returns its path.

    Args:
        run: to report on.
        folder: where to write.
        note: told what is left out: files that are not there or cannot be read.
        colormap: of the maps on the page; None for that of the run's own pictures.
    """
    failed = [r for r in run.records if r.get("error")]
    done = [r for r in run.records if not r.get("error") and not r.get("skipped")]
    skipped = len(run.records) - len(done) - len(failed)
    stored = cards.stored(run)
    _note_missing(run, stored, note)
    data = {
        "counts": {"records": len(run.records), "done": len(done), "failed": len(failed)},
        "settings": run.settings,
        "summary": summarize(run.records),
        "cards": cards.cards(run, stored, note, colormap),
        "links": cards.links(run, stored, folder),
        "curves": curves.curves(run, stored, note),
    }
    data = clean(data) | {"columns": columns(run.records)}
    settings = run.settings
    known = inner if isinstance(inner := settings.get("settings"), dict) else {}
    heading = " · ".join(str(v) for k in ("model", "objective") if (v := (known | settings).get(k)))
    lead = [f"gcpatch report of {folder.resolve().name}"]
    lead += [f"started {settings['started']}"] if settings.get("started") else []
    lead += [f"{len(settings['parts'])} runs together"] if settings.get("parts") else []
    shown = colormap or cards.colormap_of(run)
    parts = {
        "heading": escape(heading or "A run of gcpatch"),
        "lead": escape(", ".join(lead)),
        "headline": "\n".join(_headline(*line) for line in _headlines(done, failed, skipped)),
        "networks": _networks(done),
        "colours": f"OpenCV's {shown}, {MAPS[shown]}",
    }
    write(folder / "report.html", "report", parts, data)
    return folder / "report.html"


def _note_missing(run, stored, note):
    """Says of how many images that are done there are no files."""
    rows = [
        row
        for row in sorted(set(range(len(run.records))).difference(stored))
        if not run.records[row].get("error") and not run.records[row].get("skipped")
    ]
    cards.note_images(run, rows, "pictures that are not there", note)
