"""Figure 4: the region of interest, and patches in corners, which it leaves free.

    python -m experiments.paper.placement

The images are those of the run `printed-64` of VGG19-BN. The region of interest is the object's
mask, which scenes have; of other images it is not known, and the patches alone are drawn.
"""

import numpy as np

from experiments.paper import drawing, findings
from experiments.paper.drawing import Tile
from experiments.paper.findings import Check, Finding
from experiments.paper.study import IMAGE_SIZE, Study
from gcpatch.attacks.regions import Patch
from gcpatch.report.export import write_export
from gcpatch.report.figures import percent

TITLE = "Figure 4: region of interest, and where patches go"
CLAIM = (
    "Patches in the top corners leave the main object free; those of 64 and 32 pixels cover "
    "about 3 % and 1.5 % of the image."
)
PRINTED = {64: 0.03, 32: 0.015}
PLACES = {
    f"{size} pixels, {side}": Patch(size, position=side)
    for size in PRINTED
    for side in ("top-left", "top-right")
}


def experiment(study: Study) -> Finding:
    """Draws the places; measures how much of image and object they cover."""
    cell = study.cell("VGG19-BN", "printed-64")
    done = {record["id"] for record in cell.records}
    masks = {item.id: item.read().mask for item in study.items if item.id in done}
    rows, region = [], []
    for (record,) in drawing.examples([cell]):
        image, mask = cell.tiles(record)[0], masks[record["id"]]
        region = [] if mask is None else [Tile(255 * mask.astype(np.uint8))]
        marked = [Tile(image, box=_box(patch) / IMAGE_SIZE) for patch in PLACES.values()]
        rows.append([Tile(image), *region, *marked])
    columns = ["image", *["region of interest (white)"][: len(region)], *PLACES]
    picture = drawing.grid(study.out / "figure-04.png", TITLE, columns, rows, bars=())
    found = [
        {"id": name, "patch": place, "share of the object": _covered(patch, mask)}
        for place, patch in PLACES.items()
        for name, mask in masks.items()
    ]
    table = study.out / "figure-04.csv"
    write_export(found, table)
    shares = [share for line in found if (share := line["share of the object"]) is not None]
    free = (
        Check(f"patches cover at most {percent(max(shares))} of an object", not any(shares))
        if shares
        else None
    )
    areas = {size: size**2 / IMAGE_SIZE**2 for size in PRINTED}
    near = [
        Check(
            f"{size} pixels cover {percent(area)} of the image", abs(area - PRINTED[size]) < 0.005
        )
        for size, area in areas.items()
    ]
    lines = [
        {"patch": place, "share of the image": percent(areas[patch.size])}
        for place, patch in PLACES.items()
    ]
    return Finding(TITLE, CLAIM, [findings.judge([free, *near])], [picture], table, lines)


def _box(patch: Patch) -> np.ndarray:
    """Row, column and side in pixels."""
    return np.array([*patch.corner(IMAGE_SIZE, IMAGE_SIZE), patch.size])


def _covered(patch: Patch, mask: np.ndarray | None) -> float | None:
    """The share of the object under the patch."""
    row, column, size = _box(patch)
    square = slice(row, row + size), slice(column, column + size)
    return None if mask is None else float(mask[square].sum() / mask.sum())


if __name__ == "__main__":
    findings.main(__doc__, experiment)
