"""Figures 1 and 3: what the four networks look at in clean images.

    python -m experiments.paper.clean_maps

The maps are those of the runs `printed-64` before their attack, for the class that each network
names.
"""

from experiments.paper import drawing, findings
from experiments.paper.findings import Check, Finding
from experiments.paper.study import Study
from gcpatch.report.figures import percent

TITLE = "Figures 1 and 3: Grad-CAM of clean images"
CLAIM = "All four networks look at the main object, each with a map of a quality of its own."
APART = 0.05  # the least difference of two networks' heat on the object that counts as one


def experiment(study: Study) -> Finding:
    """Draws the maps; compares how much of the heat is on the object."""
    cells = study.cells(["printed-64"])
    tiles = [
        [drawing.Tile(cells[0].tiles(records[0])[0])]
        + [drawing.explained(drawing.before(c, r)) for c, r in zip(cells, records, strict=True)]
        for records in drawing.examples(cells)
    ]
    columns = ["image", *(f"{cell.title}\n({cell.network})" for cell in cells)]
    picture = drawing.grid(study.out / "figure-01-03.png", TITLE, columns, tiles)
    shares = {cell.title: findings.mean([cell], "object_energy_clean") for cell in cells}
    known = [share for share in shares.values() if share is not None]
    said = ", ".join(f"{title} {percent(share)}" for title, share in shares.items())
    checks = (
        [
            Check(f"heat on the object: {said}", min(known) >= 0.5),
            Check(
                f"the networks differ by {100 * (max(known) - min(known)):.0f} points",
                max(known) - min(known) >= APART,
            ),
        ]
        if known
        else []
    )
    lines = [{"network": title, "heat on the object": percent(s)} for title, s in shares.items()]
    table = findings.write_records(study.out / "figure-01-03.csv", cells)
    return Finding(TITLE, CLAIM, [findings.judge(checks)], [picture], table, lines)


if __name__ == "__main__":
    findings.main(__doc__, experiment)
