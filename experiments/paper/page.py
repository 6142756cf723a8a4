"""One self-contained page: every figure beside what the paper says of it and what was found."""

import base64
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

import cv2

from experiments.paper.findings import PART, Finding
from experiments.paper.study import Study
from gcpatch.data.images import read_png

STYLE = """
body { margin: 0 auto; max-width: 76rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: #1a1a1e; background: #fff; overflow-wrap: break-word; }
h1 { line-height: 1.2; } h2 { margin: 0 0 .5rem; font-size: 1.25rem; }
section { border-top: 1px solid #c8cad2; margin-top: 2rem; padding-top: 1.5rem; }
.said { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr));
  gap: 0 2rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
img { display: block; max-width: 100%; min-width: min(60rem, 100vw * 2.4); height: auto; }
table { border-collapse: collapse; font-size: .875rem; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #e4e5ea;
  white-space: nowrap; }
small, dt { color: #5c5e66; } dt { font-weight: 600; } dd { margin: 0 0 .6rem; }
code { font-size: .875em; }
"""


def write(study: Study, findings: Sequence[tuple[str, Finding]]) -> Path:
    """Writes `index.html` into the study's folder; `findings` with their commands."""
    sections = "\n".join(_section(command, finding) for command, finding in findings)
    networks = ", ".join(f"{title}: {name}" for title, name in study.networks.items())
    notes = "".join(f"<li>{escape(note)}</li>" for note in _notes(study))
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>The paper's figures</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{STYLE}</style></head><body>
<h1>The paper's figures, made again</h1>
<p>Le, Kang and Kim, IEEE Access 2021 (<a href="https://doi.org/10.1109/ACCESS.2021.3115764"
>doi:10.1109/ACCESS.2021.3115764</a>). Networks: {escape(networks)}. Images:
{escape(study.source)}; the pictures are of the first ones. Every number is computed from the
records in <code>runs/</code>, whose verdicts are those of the re-read PNG.</p>
<ul>{notes}</ul>
{sections}
</body></html>
"""
    path = study.out / "index.html"
    path.write_text(text, encoding="utf-8")
    return path


def _notes(study: Study) -> list[str]:
    """What a reader must know to compare: what was run, and what is missing."""
    errors = Counter(error for cell in study.cells() for error in cell.errors)
    results = len(study.items) * len(study.cells())
    steps = study.steps
    return [
        "Algorithm 1 as printed (printed-64, printed-32): the preset's sign steps of 0.05, at most "
        f"{steps['printed-64']}, but the patch flush in the top right corner, as the captions say. "
        "Its loss takes the heat from cells at the map's top left, 16 for 64 pixels and 4 for 32: "
        "as many as lie under the patch on VGG's map of 14 x 14, four times as many on the "
        "ResNets' of 7 x 7. Its noise has no bounds, so that a ratio of 20 % bounds no pixel's "
        "change.",
        "Objective highlight (shown-64, shown-32): asks for what the paper's figures show, all "
        "heat on the patch, and ends once class and map are fooled, after at most "
        f"{steps['shown-64']} steps.",
        f"[16]'s method (left, right): its own settings, at most {steps['left']} steps of 0.005.",
        "Heat on the patch: its share of the target's Grad-CAM, before and after; on the object: "
        "before the attack of the class named, after it of the target. Cells are weighted by how "
        f"much of them is covered; from {100 * PART:.0f} % on it is a part.",
        f"{errors.total()} of {results} results are missing"
        + "".join(f"; {times} times: {error}" for error, times in errors.items())
        + ".",
    ]


def _section(command: str, finding: Finding) -> str:
    verdicts = "".join(f"<dd>{escape(verdict)}</dd>" for verdict in finding.verdicts)
    pictures = "".join(
        f'<div class="wide"><img src="{_embed(path)}" alt="{escape(path.stem)}"></div>'
        for path in finding.pictures
    )
    return f"""<section><h2>{escape(finding.title)}</h2>
<dl class="said"><div><dt>The paper</dt><dd>{escape(finding.claim)}</dd></div>
<div><dt>Here</dt>{verdicts}</div></dl>
{pictures}{_table(finding.rows)}
<small><code>{escape(command)}</code>; data: {escape(finding.table.name)}</small></section>"""


def _table(rows: Sequence[dict[str, str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(value)}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _embed(path: Path) -> str:
    """A picture as WebP, a fraction of the PNG, in a data: address."""
    data = cv2.imencode(".webp", read_png(path)[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 88])[1]
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()
