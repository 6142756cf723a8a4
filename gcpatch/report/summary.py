"""The rates and means over a run's records, and the file summary.json that holds them."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gcpatch.evaluation.intervals import bootstrap, rate
from gcpatch.files import atomic_write

FOOLED = ("fooled_class", "fooled_explanation", "fooled_both")
RATES = ("converged", *FOOLED, "fooled_explanation_ring", "map_empty")
OF_CORRECT = tuple(f"{key}_of_correct" for key in FOOLED)
ACCURACIES = ("accuracy_clean", "accuracy_robust")
SHARES = (*RATES, *OF_CORRECT, *ACCURACIES)
MEANS = (
    "steps",
    "energy_clean",
    "energy_adversarial",
    "energy_ring_clean",
    "energy_ring_adversarial",
    "map_iou",
    "map_rank_correlation",
    "linf",
    "l2",
    "psnr",
    "pixels_changed_share",
    "object_energy_clean",
    "object_energy_adversarial",
)
KEYS = (*SHARES, *MEANS)


def number(value: Any) -> float | int | None:
    """`value` if it is a finite number, else None; true and false count as 1 and 0."""
    return value if isinstance(value, (int, float)) and abs(value) < 1e300 else None


def summarize(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Rates and means over the records, each over those that have the value; None over none.

    `accuracy_clean` and `accuracy_robust` are the shares, of the images with a known label, that
    the network classifies right before the attack, and before and after it; a skipped image stays
    as it is. `fooled_*_of_correct` are the rates among the attacked images that it had right.

    `intervals` has each rate's 95 % interval (Wilson's), `[low, high]`. Where the records are of
    several networks, `networks` has all this for each of them.

    Of explained images there are only counts and, by method, the mean of each measure of its maps
    and its 95 % interval (the bootstrap's), `[mean, low, high]`.
    """
    whole, networks = _Sums(), defaultdict[str, _Sums](_Sums)
    maps: dict[str, dict[str, list[Any]]] = {}
    for record in records:
        for method, measured in (record.get("maps") or {}).items():
            values = maps.setdefault(method, {})
            for key, value in measured.items():
                values.setdefault(key, []).append(value)
        whole.add(record)
        if isinstance(name := record.get("model"), str):
            networks[name].add(record)
    found = whole.summary()
    if maps:
        counts = {key: found[key] for key in ("images", "failed", "skipped")}
        return counts | {"methods": {method: _means(values) for method, values in maps.items()}}
    if len(networks) > 1:
        found["networks"] = {name: sums.summary() for name, sums in networks.items()}
    return found


def _means(measured: dict[str, list[Any]]) -> dict[str, list[float]]:
    return {key: list(bootstrap(np.asarray(values, float))) for key, values in measured.items()}


class _Sums:
    """What a summary needs to know of the records so far."""

    def __init__(self) -> None:
        self.images, self.failed, self.skipped = 0, 0, 0
        self.sums, self.counts = dict.fromkeys(KEYS, 0.0), dict.fromkeys(KEYS, 0)

    def add(self, record: dict[str, Any]) -> None:
        self.images += 1
        if record.get("error"):
            self.failed += 1
            return
        self.skipped += bool(record.get("skipped"))
        known = record | judged(record)
        for key in KEYS:
            value = number(known.get(key))
            if value is not None and (isinstance(value, bool) or key in MEANS):
                self.sums[key] += value
                self.counts[key] += 1

    def summary(self) -> dict[str, Any]:
        counts = {"images": self.images, "failed": self.failed, "skipped": self.skipped}
        means = {
            key: self.sums[key] / self.counts[key] if self.counts[key] else None for key in KEYS
        }
        rates = {
            key: rate(int(self.sums[key]), self.counts[key]) for key in SHARES if self.counts[key]
        }
        intervals = {key: [found.low, found.high] for key, found in rates.items()}
        return counts | means | {"intervals": intervals}


def judged(record: dict[str, Any]) -> dict[str, Any]:
    """Whether the network has a labelled image right, and whether the attack worked if so."""
    label, clean, attacked = (_id(record.get(key)) for key in ("label", "clean", "png"))
    if label is None or clean is None:
        return {}
    right = clean == label
    judged = {"accuracy_clean": right, "accuracy_robust": right and attacked in (None, label)}
    if right:
        judged |= {f"{key}_of_correct": record.get(key) for key in FOOLED}
    return judged


def _id(found: Any) -> Any:
    return found.get("id") if isinstance(found, dict) else None


def write_summary(folder: Path, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Writes `summary.json` of the records into the folder; returns what it holds."""
    summary = summarize(records)
    with atomic_write(folder / "summary.json") as draft:
        draft.write_text(json.dumps(summary, indent=2))
    return summary
