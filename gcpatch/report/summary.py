"""The rates and means over a run's records, and the file summary.json that holds them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gcpatch.files import atomic_write

FOOLED = ("fooled_class", "fooled_explanation", "fooled_both")
RATES = ("converged", *FOOLED)
OF_CORRECT = tuple(f"{key}_of_correct" for key in FOOLED)
ACCURACIES = ("accuracy_clean", "accuracy_robust")
MEANS = (
    "steps", "energy_clean", "energy_adversarial", "map_iou", "map_rank_correlation",
    "linf", "l2", "psnr", "pixels_changed_share",
    "object_energy_clean", "object_energy_adversarial",
)  # fmt: skip


def number(value: Any) -> float | int | None:
    """`value` if it is a finite number, else None; true and false count as 1 and 0."""
    return value if isinstance(value, (int, float)) and abs(value) < 1e300 else None


def summarize(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Rates and means over the records, each over those that have the value; None over none.

    `accuracy_clean` and `accuracy_robust` are the shares, of the images with a known label, that
    the network classifies right before the attack, and before and after it; a skipped image stays
    as it is. `fooled_*_of_correct` are the rates among the attacked images that it had right.
    """
    images, failed, skipped = 0, 0, 0
    keys = (*RATES, *OF_CORRECT, *ACCURACIES, *MEANS)
    sums, counts = dict.fromkeys(keys, 0.0), dict.fromkeys(keys, 0)
    for record in records:
        images += 1
        if record.get("error"):
            failed += 1
            continue
        skipped += bool(record.get("skipped"))
        known = record | _judged(record)
        for key in sums:
            if (value := number(known.get(key))) is not None:
                sums[key] += value
                counts[key] += 1
    means = {key: sums[key] / counts[key] if counts[key] else None for key in sums}
    return {"images": images, "failed": failed, "skipped": skipped, **means}


def _judged(record: dict[str, Any]) -> dict[str, Any]:
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
