"""The bench's rows as bars."""

from pathlib import Path
from typing import Any

from experiments.plots import plt

COLOURS = {  # Okabe and Ito's, told apart by colour-blind readers
    "torch-single": "#999999",
    "torch-batched": "#e69f00",
    "gcpatch-full": "#56b4e9",
    "gcpatch-incremental": "#0072b2",
    "gcpatch-near": "#009e73",
}


def draw(found: dict[str, Any], path: Path) -> None:
    """One panel a patch size: image-steps a second of each network and variant."""
    rows = [row for row in found["rows"] if row["image_steps_per_second"]]
    sizes = sorted({row["size"] for row in rows}, reverse=True)
    names = list(dict.fromkeys(row["network"] for row in rows))
    variants = [name for name in COLOURS if any(row["variant"] == name for row in rows)]
    figure, panels = plt.subplots(
        1, len(sizes), figsize=(5.5 * len(sizes), 4.5), sharey=True, squeeze=False
    )
    for panel, size in zip(panels[0], sizes, strict=True):
        for place, variant in enumerate(variants):
            best = [
                max(
                    (
                        row["image_steps_per_second"]
                        for row in rows
                        if row["network"] == name
                        and row["variant"] == variant
                        and (row["size"] == size or variant == "torch-single")
                    ),
                    default=0,
                )
                for name in names
            ]
            left = (place - (len(variants) - 1) / 2) / (len(variants) + 1)
            places = [i + left for i in range(len(names))]
            width = 0.95 / (len(variants) + 1)
            bars = panel.bar(places, best, width, color=COLOURS[variant], label=variant)
            panel.bar_label(
                bars, [f"{pace:.3g}" for pace in best], fontsize=7, rotation=90, padding=2
            )
        panel.set_title(f"patch of {size} pixels")
        panel.set_xticks(range(len(names)), names, rotation=15)
        panel.margins(y=0.15)
    panels[0][0].set_ylabel("image-steps a second (best batch)")
    panels[0][0].legend(frameon=False)
    figure.suptitle(
        f"One step of the attack, {found['machine']['device']}, {found['machine']['cores']} cores"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
