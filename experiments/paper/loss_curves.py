"""Figure 18 a to d: Grad-CAM loss and cross-entropy while the patch is optimised.

    python -m experiments.paper.loss_curves

Medians over the images; an image that is done keeps its last value. As printed the Grad-CAM loss
sums 16 cells for 64 pixels and 4 for 32, so that only that of `highlight`, a share of the heat,
compares the two.
"""

import numpy as np

from experiments.paper import drawing, findings
from experiments.paper.findings import Check, Finding
from experiments.paper.study import Cell, Study
from gcpatch.report.export import write_export

TITLE = "Figure 18: losses, 64 pixels at 100 % and 32 pixels at 20 %"
CLAIM = "64 pixels at 100 % bring both losses down; with 32 pixels at 20 % they end higher."
TERMS = {"explanation": "Grad-CAM loss", "cross_entropy": "CE loss"}
UNITS = {
    "printed": {"explanation": "sum of cells / 16", "cross_entropy": "nats"},
    "shown": {"explanation": "heat off the patch, share", "cross_entropy": "nats"},
}
SIZES = {"64": "64 pixels, 100 %", "32": "32 pixels, 20 %"}


def experiment(study: Study) -> Finding:
    """Draws the curves of both variants of the method; compares where they begin and end."""
    pictures, verdicts, table, rows = [], [], [], []
    for variant in ("printed", "shown"):
        about = drawing.SHOWN[f"{variant}-64"]
        found = {
            (term, size): {c.title: median(c, term) for c in study.cells([f"{variant}-{size}"])}
            for size in SIZES
            for term in TERMS
        }
        panels = {
            f"({letter}) {SIZES[size]}: {TERMS[term]} ({UNITS[variant][term]})": lines
            for letter, ((term, size), lines) in zip("abcd", found.items(), strict=True)
        }
        path = study.out / f"figure-18-{variant}.png"
        pictures.append(drawing.curves(path, f"Figure 18: {about}, median of the images", panels))
        checks = [check for term in TERMS for check in _checks(found, term)]
        verdicts.append(findings.judge(checks, f"{about}: "))
        for panel, lines in panels.items():
            steps = max(map(len, lines.values()))
            for step in range(steps):
                losses = {title: f"{v[step]:.6g}" for title, v in lines.items() if step < len(v)}
                table.append({"variant": variant, "panel": panel, "step": f"{step + 1}"} | losses)
            ends = {title: f"{v[0]:.3g} → {v[-1]:.3g}" for title, v in lines.items()}
            rows.append({"variant": variant, "panel": panel} | ends)
    write_export(table, study.out / "figure-18.csv")
    return Finding(TITLE, CLAIM, verdicts, pictures, study.out / "figure-18.csv", rows)


def median(cell: Cell, term: str) -> np.ndarray:
    """The loss at each step."""
    curves = [history[term] for history in cell.histories()]
    steps = np.arange(max(map(len, curves)))
    return np.median([curve[np.minimum(steps, len(curve) - 1)] for curve in curves], axis=0)


def _checks(found: dict[tuple[str, str], dict[str, np.ndarray]], term: str) -> list[Check]:
    large, small = (found[term, size] for size in SIZES)
    down = sum(bool(values[-1] < values[0]) for values in large.values())
    higher = sum(bool(small[title][-1] > large[title][-1]) for title in large)
    name, count = TERMS[term], len(large)
    return [
        Check(f"64 pixels bring the {name} down in {down} of {count} networks", down > count / 2),
        Check(f"32 pixels end at a higher {name} in {higher} of {count}", higher > count / 2),
    ]


if __name__ == "__main__":
    findings.main(__doc__, experiment)
