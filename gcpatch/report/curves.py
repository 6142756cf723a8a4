"""The losses of a run's images, as the page draws them: the median and where most of them lie."""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from gcpatch.report.cards import UNREADABLE, folder_of, spread
from gcpatch.report.records import Note, Run

HISTORIES = 500  # most images that are read
TERMS = "total", "cross_entropy", "explanation"
BAND = {"low": 0.1, "median": 0.5, "high": 0.9}


def curves(run: Run, stored: Sequence[int], note: Note) -> dict[str, Any] | None:
    """The quantiles of the losses at about 150 steps; None without any losses.

    Args:
        run: whose losses are drawn.
        stored: the rows of images with files of their own.
        note: told of a file that cannot be read.

    Returns:
        The steps `x`, of each of `TERMS` the `BAND`, the `count` of images, and the `last` step.
    """
    histories = _histories(run, stored, note)
    if not histories:
        return None
    steps = max(len(curve) for terms in histories for curve in terms.values())
    x = np.union1d(np.arange(min(10, steps)), np.linspace(0, steps - 1, 140).round().astype(int))
    bands = {term: _band([terms[term] for terms in histories], x) for term in TERMS}
    return {"x": x.tolist(), **bands, "count": len(histories), "last": steps - 1}


def _terms(stored, prefix):
    """The three losses [steps] of one image from the arrays of an .npz file."""
    terms = {term: np.ravel(stored[prefix + term]).astype(float) for term in TERMS}
    if not all(map(len, terms.values())):
        raise ValueError("no steps")
    return terms


def _histories(run, stored, note):
    """[{term: [steps]}] of some images, from their own history.npz or their run's file."""
    whole = {folder for folder in set(run.folders) if (folder / "histories.npz").is_file()}
    known, found = set(stored), {}
    rows = [
        row
        for row, (record, folder) in enumerate(zip(run.records, run.folders, strict=True))
        if row in known or (folder in whole and not record.get("error"))
    ]
    rows = spread(rows, HISTORIES)
    for row in known.intersection(rows):
        with suppress(*UNREADABLE), open(folder_of(run, row) / "history.npz", "rb") as file:
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
    return list(found.values())


def _band(curves, picked):
    """The quantiles of `curves` at the steps `picked`; an ended curve keeps its last value."""
    table = np.stack([curve[np.minimum(picked, len(curve) - 1)] for curve in curves])
    table[~np.isfinite(table)] = np.nan
    known, found = np.isfinite(table).any(0), np.full((len(BAND), len(picked)), np.nan)
    found[:, known] = np.nanquantile(table[:, known], list(BAND.values()), axis=0)
    return {name: _thin(values) for name, values in zip(BAND, found, strict=True)}


def _thin(values):
    """Floats as a list with four digits each; NaN and infinity become None."""
    return [float(f"{v:.4g}") if math.isfinite(v) else None for v in values]
