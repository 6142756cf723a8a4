"""Experiment 4, Figures 12 and 13: masks and heatmaps of VGG19 and ResNeXt101, 32 pixels, 20 %.

    python -m experiments.paper.experiment4

The four outputs of algorithm 1, straight from the runs' folders: aiP, giP, mfE, hfE.
"""

from typing import Any

from experiments.paper import drawing, findings
from experiments.paper.drawing import JET, Tile
from experiments.paper.findings import Check, Finding
from experiments.paper.study import Cell, Study
from gcpatch.report.figures import percent

TITLE = "Experiment 4, Figures 12 and 13: masks and heatmaps, 32 pixels at 20 %"
CLAIM = "Mask and heatmap of the attacked image show where the map was led: to the patch as well."
FIGURES = {12: "VGG19", 13: "ResNeXt101"}
SETTING = "printed-32"
FILES = {
    "adversarial": "attacked image (aiP)",
    "overlay": "Grad-CAM over it (giP)",
    "mask": "mask (mfE)",
    "heatmap": "heatmap (hfE)",
}
BARS = [
    ("heatmap and Grad-CAM, share of each map's maximum", JET),
    ("mask, share of its maximum", "gray"),
]


def experiment(study: Study) -> Finding:
    """Draws the files; measures the heat on the patch and how far the maps are from the clean."""
    cells = study.cells([SETTING], tuple(FIGURES.values()))
    pictures = []
    for number, cell in zip(FIGURES, cells, strict=True):
        rows = [_tiles(cell, record) for (record,) in drawing.examples([cell])]
        about = f"Figure {number}: {cell.title} ({cell.network}), {drawing.SHOWN[SETTING]}"
        path = study.out / f"figure-{number}.png"
        pictures.append(drawing.grid(path, about, list(FILES.values()), rows, bars=BARS))
    overlap = findings.mean(cells, "map_iou")
    moved = Check(
        f"the hot halves of the maps before and after overlap by {percent(overlap)}",
        overlap is not None and overlap < 0.5,
    )
    checks = [findings.heat_on_patch(cells, findings.PART), moved]
    table = findings.write_records(study.out / "figure-12-13.csv", cells)
    verdicts = [findings.judge(checks, f"{drawing.SHOWN[SETTING]}: ")]
    return Finding(TITLE, CLAIM, verdicts, pictures, table, findings.rows(cells))


def _tiles(cell: Cell, record: dict[str, Any]) -> list[Tile]:
    said = *(tile.caption for tile in drawing.after(cell, record)), "", ""
    return [Tile(cell.picture(record, f), line) for f, line in zip(FILES, said, strict=True)]


if __name__ == "__main__":
    findings.main(__doc__, experiment)
