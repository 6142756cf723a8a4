"""Figures 16 and 17: all four networks, 64 pixels at 100 % and 32 pixels at 20 %.

python -m experiments.paper.four_networks
"""

from pathlib import Path

from experiments.paper import drawing, findings
from experiments.paper.findings import Check, Finding
from experiments.paper.study import Study
from gcpatch.report.figures import percent

TITLE = "Figures 16 and 17: four networks, both patches"
CLAIM = (
    "64 pixels at 100 % leave the patch alone hot and are easily seen; 32 pixels at 20 % are "
    "hardly seen, fool less often and keep part of the object hot, in all four networks."
)
FIGURES = {16: "64", 17: "32"}
VARIANTS = ("printed", "shown")
PATCHES = {"64": "64 pixels, 100 %", "32": "32 pixels, 20 %"}


def experiment(study: Study) -> Finding:
    """Draws the attacked maps and where their heat is; judges every variant of the method."""
    pictures = [_maps(study, number, size) for number, size in FIGURES.items()]
    every = [f"{variant}-{size}" for variant in VARIANTS for size in PATCHES]
    panels = {f"{drawing.SHOWN[s]}, {PATCHES[s[-2:]]}": study.cells([s]) for s in every}
    path = study.out / "figure-16-17-heat.png"
    pictures.append(drawing.shares(path, "Where the heat is, image by image", panels))
    verdicts = [sentence for variant in VARIANTS for sentence in _verdicts(study, variant)]
    cells = study.cells(every)
    table = findings.write_records(study.out / "figure-16-17.csv", cells)
    return Finding(TITLE, CLAIM, verdicts, pictures, table, findings.rows(cells))


def _maps(study: Study, number: int, size: str) -> Path:
    """One figure: an image in a row, a network in a column, one variant above the other."""
    rows, sides = [], []
    for variant in VARIANTS:
        cells = study.cells([f"{variant}-{size}"])
        for records in drawing.examples(cells)[:2]:
            image = drawing.Tile(cells[0].tiles(records[0])[0])
            maps = (drawing.after(c, r) for c, r in zip(cells, records, strict=True))
            rows.append([image, *map(drawing.explained, maps)])
            sides.append(drawing.SHOWN[f"{variant}-{size}"])
    columns = ["image", *(f"{cell.title}\n({cell.network})" for cell in cells)]
    title = f"Figure {number}: Grad-CAM of the target after the attack, {PATCHES[size]}"
    path = study.out / f"figure-{number}.png"
    return drawing.grid(path, title, columns, rows, sides=sides)


def _verdicts(study: Study, variant: str) -> list[str]:
    """On each patch, and on both beside each other."""
    large, small = (study.cells([f"{variant}-{size}"]) for size in PATCHES)
    seen = [findings.mean(cells, "psnr") or float("inf") for cells in (large, small)]
    often = [findings.mean(cells, "fooled_class") or 0 for cells in (large, small)]
    both: list[Check | None] = [
        Check(f"the PSNR is {seen[0]:.1f} dB and {seen[1]:.1f} dB", seen[1] > seen[0]),
        Check(f"labels fall in {percent(often[0])} and {percent(often[1])}", often[1] < often[0]),
    ]
    about = drawing.SHOWN[large[0].setting]
    return [
        findings.judge(checks, f"{about}, {which}: ")
        for which, checks in zip(
            (*PATCHES.values(), "both patches"),
            (findings.lit(large), findings.half_lit(small), both),
            strict=True,
        )
    ]


if __name__ == "__main__":
    findings.main(__doc__, experiment)
