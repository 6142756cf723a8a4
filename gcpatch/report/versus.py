"""The page of a comparison: settings, rates beside each other, pictures of what changed sides."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from gcpatch.report import cards
from gcpatch.report.compare import LABELS, SHARES, Changed, Comparison, Difference, Pair, texts
from gcpatch.report.figures import percent
from gcpatch.report.page import clean, html_table, write
from gcpatch.report.records import Note, Run
from gcpatch.report.summary import FOOLED, summarize
from gcpatch.report.table import columns, status


class Row(NamedTuple):
    """An image that changed sides between two runs."""

    names: tuple[str, str]
    runs: tuple[Run, Run]
    changed: Changed

    def records(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Its records in both."""
        first, second = self.runs
        return first.records[self.changed.first], second.records[self.changed.second]


def write_page(found: Comparison, path: Path, note: Note = lambda _: None) -> None:
    """Write one page that shows a comparison.

    Args:
        found: to show.
        path: of the page.
        note: told of pictures that are left out.

    Raises:
        OSError: the page cannot be written.
    """
    rows = [
        Row(pair.names, (found.runs[0], other), changed)
        for pair, other in zip(found.pairs, found.runs[1:], strict=True)
        for changed in pair.changed
    ]
    said = list(map(_said, rows))
    several = len(found.pairs) > 1
    parts = {
        "heading": escape(" and ".join(found.names)),
        "lead": escape(_lead(found)),
        "runs": _runs(found),
        "settings": _settings(found),
        "changed": _count(rows),
        "pairs": "\n".join(_pair(pair, n) for n, pair in enumerate(found.pairs)),
    }
    data = {
        "cards": _cards(rows, note),
        "names": [row.names for row in rows],
        "empty": [
            [bool(one[side].get("map_empty")) for side in ("first", "second")] for one in said
        ],
        "columns": columns(said, [*_layout(found, several)]),
    }
    write(path, "compare", parts, clean(data) | {"columns": data["columns"]})


def _lead(found: Comparison) -> str:
    said = [f"{pair.images:,} images are in {' and '.join(pair.names)}" for pair in found.pairs]
    return f"gcpatch compare; with the same network and target {'; '.join(said)}."


def _count(rows: Sequence[Row]) -> str:
    if not rows:
        return "No image is fooled in one run and not in another."
    what = "1 image is" if len(rows) == 1 else f"{len(rows):,} images are"
    return f"{what} fooled in one run and not in another. A heading sorts; the pictures follow."


def _runs(found: Comparison) -> str:
    """A table of what each run is of, and its own rates over all of its images."""
    rows = []
    for name, run in zip(found.names, found.runs, strict=True):
        summary = summarize(run.records)
        models = dict.fromkeys(str(r["model"]) for r in run.records if r.get("model"))
        goals = dict.fromkeys(str(r["objective"]) for r in run.records if r.get("objective"))
        counts = [f"{summary[key]:,}" for key in ("images", "failed", "skipped")]
        rates = [_rate(summary, key) for key in FOOLED]
        own = [", ".join(map(escape, names)) or "–" for names in (models, goals)]
        rows.append([escape(name), *own, *counts, *rates])
    head = ["Run", "Network", "Objective", "Images", "Failed", "Skipped"]
    head += [LABELS[key] for key in FOOLED]
    return html_table("runs-table", "Each run by itself, with 95 % intervals", head, rows)


def _rate(summary: dict[str, Any], key: str) -> str:
    if summary[key] is None:
        return "–"
    low, high = summary["intervals"][key]
    return f"{percent(summary[key])} ({percent(low)} to {percent(high)})"


def _settings(found: Comparison) -> str:
    if not found.settings:
        return '<p class="note">All settings are the same.</p>'
    rows = [
        [escape(key), *("–" if value is None else escape(str(value)) for value in values)]
        for key, values in found.settings.items()
    ]
    head = ["Setting", *map(escape, found.names)]
    return html_table("settings-table", "All others are the same", head, rows)


def _pair(pair: Pair, number: int) -> str:
    """What two runs differ by, and what of them cannot be compared."""
    first, second = map(escape, pair.names)
    notes = "".join(f"<li>{escape(note)}</li>" for note in pair.notes)
    table = ""
    if pair.differences:
        rows = [[LABELS[d.key], f"{d.images:,}", *texts(d), _whisker(d)] for d in pair.differences]
        head = [
            "Rate or mean",
            "Images",
            first,
            second,
            "Difference [95 % interval]",
            "From −100 % to 100 %",
        ]
        caption = f"{second} less {first}, on the {pair.images:,} images in both"
        table = html_table(f"rates-{number}", caption, head, rows)
    return (
        f"<h3>{first} and {second}</h3>\n"
        + (f"<ul class='note'>{notes}</ul>" if notes else "")
        + table
    )


def _whisker(found: Difference) -> str:
    """A share's difference and its interval on a line from -1 to 1."""
    if found.key not in SHARES:
        return ""
    low, value, high = (f"{60 + 60 * v:.1f}" for v in (found.low, found.value, found.high))
    clear = " clear" if found.low > 0 or found.high < 0 else ""
    return (
        '<svg class="whisker" viewBox="0 0 120 14" aria-hidden="true">'
        '<path class="zero" d="M0 7H120M60 0V14"/>'
        f'<path class="reach{clear}" d="M{low} 7H{high}"/>'
        f'<circle class="reach{clear}" cx="{value}" cy="7" r="3"/></svg>'
    )


# ---- the images that changed sides ---------------------------------------------------------------


def _layout(found: Comparison, several: bool) -> Iterator[tuple[str, str, str]]:
    """The columns of their table."""
    first = found.names[0]
    other = "the other" if several else found.names[1]
    yield "Image", "text", "id"
    yield "Fooled", "text", "status"
    if several:
        yield "The other run", "text", "run"
    yield "Target", "class", "target"
    for key, kind, what in (
        ("outcome", "text", "Outcome"),
        ("adversarial", "class", "Attacked class"),
        ("energy_adversarial", "share", "Energy"),
        ("energy_ring_adversarial", "share", "Energy with its ring"),
        ("steps", "count", "Steps"),
    ):
        yield f"{what}, {first}", kind, f"first.{key}"
        yield f"{what}, {other}", kind, f"second.{key}"


def _said(row: Row) -> dict[str, Any]:
    """A row of the table."""
    before, after = row.records()
    return {
        "id": before["id"],
        "status": f"only in {row.names[not row.changed.only_first]}",
        "run": row.names[1],
        "target": before.get("target"),
        "first": before | {"outcome": status(before)},
        "second": after | {"outcome": status(after)},
    }


def _cards(rows: Sequence[Row], note: Note) -> list[dict[str, Any]]:
    """Of some rows the attacked image and its map, first of one run and then of the other."""
    stored = {id(run): set(cards.stored(run)) for row in rows for run in row.runs}
    shown = [
        n
        for n, row in enumerate(rows)
        if all(place in stored[id(run)] for run, place in zip(row.runs, row.changed, strict=False))
    ]
    found, unread = [], 0
    for n in cards.spread(shown, cards.CARDS):
        try:
            sides = [
                cards.pictures(cards.folder_of(run, place), cards.colormap_of(run))[2:]
                for run, place in zip(rows[n].runs, rows[n].changed, strict=False)
            ]
        except cards.UNREADABLE:
            unread += 1
            continue
        found.append({"row": n, "pictures": sides[0] + sides[1]})
    if unread:
        note(f"pictures that cannot be read of {unread:,} images that changed sides")
    return found
