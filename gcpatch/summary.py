"""The rates and means over a run's records, and the file summary.json that holds them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RATES = ("converged", "fooled_class", "fooled_explanation", "fooled_both")
MEANS = (
    "steps", "energy_clean", "energy_adversarial", "map_iou", "map_rank_correlation",
    "linf", "l2", "psnr", "pixels_changed_share",
    "object_energy_clean", "object_energy_adversarial",
)  # fmt: skip


def number(value: Any) -> float | int | None:
    """`value` if it is a finite number, else None; true and false count as 1 and 0."""
    return value if isinstance(value, (int, float)) and abs(value) < 1e300 else None


def summarize(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Rates and means over the records, each over those that have the value; None over none."""
    images, failed = 0, 0
    sums, counts = dict.fromkeys((*RATES, *MEANS), 0.0), dict.fromkeys((*RATES, *MEANS), 0)
    for record in records:
        images += 1
        if record.get("error"):
            failed += 1
            continue
        for key in sums:
            if (value := number(record.get(key))) is not None:
                sums[key] += value
                counts[key] += 1
    means = {key: sums[key] / counts[key] if counts[key] else None for key in sums}
    return {"images": images, "failed": failed, **means}


def write_summary(folder: Path, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Writes `summary.json` of the records into the folder; returns what it holds."""
    summary = summarize(records)
    partial = folder / ".summary.json.partial"
    partial.write_text(json.dumps(summary, indent=2))
    partial.replace(folder / "summary.json")
    return summary
