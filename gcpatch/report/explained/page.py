"""The page of explained images: a table of all, and pictures of some, the methods side by side."""

from html import escape
from pathlib import Path
from typing import Any

from gcpatch.data.images import read_png
from gcpatch.report import cards
from gcpatch.report.explained.panel import MEASURES, measures
from gcpatch.report.page import clean, html_table, write
from gcpatch.report.records import Note, Run, gather
from gcpatch.report.summary import summarize
from gcpatch.report.table import columns, status

BETTER = {"deletion": "lower", "insertion": "higher", "road": "higher"}
PICTURES = 240  # most of them on a page


def methods_of(run: Run) -> list[str]:
    """The methods of a run that explains; none of one that attacks."""
    settings = run.settings.get("settings")
    found = settings.get("methods") if isinstance(settings, dict) else None
    return [str(name) for name in found] if isinstance(found, list) else []


def write_report(folder: Path) -> Path:
    """Write `report.html` into the folder from the files in it; returns its path."""
    return write_page(gather([folder]), Path(folder))


def write_page(run: Run, folder: Path, note: Note = lambda _: None) -> Path:
    """Write the `report.html` of explained images into any folder; returns its path.

    Args:
        run: to report on.
        folder: where to write.
        note: told what is left out: files that are not there or cannot be read.
    """
    methods, stored, settings = methods_of(run), cards.stored(run), run.settings["settings"]
    said = [record | {"status": status(record)} for record in run.records]
    data = {
        "methods": methods,
        "said": [_said(record, methods) for record in run.records],
        "cards": _cards(run, methods, stored, note),
        "links": cards.links(run, stored, folder),
    }
    found = columns(said, _layout(methods, said))
    failed = sum(bool(record.get("error")) for record in run.records)
    lead = f"{len(said) - failed:,} images explained, {failed:,} failed"
    parts = {
        "heading": escape(f"{settings.get('model', 'A network')}, explained"),
        "lead": escape(f"{lead}; by {', '.join(methods)}."),
        "means": _means(run),
        "settings": _settings(settings),
        "colours": escape(cards.colormap_of(run)),
    }
    write(folder / "report.html", "explain", parts, clean(data) | {"columns": found})
    return folder / "report.html"


def _layout(methods: list[str], records: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """The columns of the table: heading, kind, key."""
    layout = [
        ("Image", "text", "id"),
        ("Status", "text", "status"),
        ("Class explained", "class", "label"),
        ("Probability", "share", "probability"),
        ("Top class", "class", "top"),
    ]
    known = {key for r in records for found in (r.get("maps") or {}).values() for key in found}
    for key in MEASURES:
        if key in known:
            layout += [(f"{key.capitalize()}, {m}", "number", f"maps.{m}.{key}") for m in methods]
    return [*layout, ("Source", "text", "source"), ("Error", "text", "error")]


def _means(run: Run) -> str:
    """A table of how faithful each method's maps are."""
    found = summarize(run.records).get("methods", {})
    known = [key for key in MEASURES if any(key in means for means in found.values())]
    if not known:
        return "<p class='note'>Not measured: <code>--faithfulness</code> does.</p>"
    rows = [
        [escape(method), *(f"{m:.3f} ({low:.3f} to {high:.3f})" for m, low, high in values)]
        for method, means in found.items()
        for values in [[means[key] for key in known]]
    ]
    head = ["Method", *(f"{key.capitalize()}, {BETTER[key]} is better" for key in known)]
    return html_table("means-table", "Means over the images, with 95 % intervals", head, rows)


def _settings(settings: dict[str, Any]) -> str:
    rows = [[escape(key), escape(str(value))] for key, value in settings.items()]
    return html_table("settings-table", "As run.json has them", ["Setting", "Value"], rows)


def _said(record: dict[str, Any], methods: list[str]) -> list[str]:
    """Of each method's map, how faithful it is."""
    maps = record.get("maps") or {}
    return [measures(maps.get(method) or {}) for method in methods]


def _cards(run: Run, methods: list[str], stored: list[int], note: Note) -> list[dict[str, Any]]:
    """Some images, each with its maps."""
    found, unread = [], []
    for row in cards.spread(stored, min(cards.CARDS, max(6, PICTURES // (1 + len(methods))))):
        folder = cards.folder_of(run, row)
        names = ["image.png", *(f"{method}/overlay.png" for method in methods)]
        try:
            pictures = [cards.small(read_png(folder / name)) for name in names]
        except cards.UNREADABLE:
            unread.append(row)
            continue
        found.append({"row": row, "pictures": pictures})
    cards.note_images(run, unread, "pictures that cannot be read", note)
    return found
