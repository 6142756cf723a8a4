"""Figure 4: the region of interest, and patches in corners, which it leaves free.

    python -m experiments.paper.placement

The images are those of the run `shown-64` of VGG19-BN. The region of interest is the object's
mask, which scenes have; of other images it is not known, and the patches alone are drawn.
"""

import numpy as np

from experiments.paper import drawing, findings
from experiments.paper.drawing import Tile
from experiments.paper.findings import Check, Finding
from experiments.paper.study import IMAGE_SIZE, Study
from gcpatch.export import write_export
from gcpatch.patches import Patch
from gcpatch.render import percent

TITLE = "Figure 4: region of interest, and where patches go"
CLAIM = (
    "Patches in the top corners leave the main object free; those of 64 and 32 pixels cover "
    "about 3 % and 1.5 % of the image."
)
PRINTED = {64: 0.03, 32: 0.015}
PLACES = [Patch(size, position=side) for size in PRINTED for side in ("top-left", "top-right")]


def experiment(study: Study) -> Finding:
    """Draws the places; measures how much of image and object they cover."""
    cell = study.cell("VGG19-BN", "shown-64")
    masks = {item.id: item.read().mask for item in study.items}
    rows, region = [], []
    for (record,) in drawing.examples([cell]):
        image, mask = cell.tiles(record)[0], masks[record["id"]]
        region = [] if mask is None else [Tile(255 * mask.astype(np.uint8))]
        marked = [Tile(image, box=_box(patch) / IMAGE_SIZE) for patch in PLACES]
        rows.append([Tile(image), *region, *marked])
    columns = [
        "image", *(["region of interest (white)"] if region else []),
        *(f"{patch.size} pixels, {patch.position}" for patch in PLACES),
    ]  # fmt: skip
    picture = drawing.grid(study.out / "figure-04.png", TITLE, columns, rows, bars=())
    table, lines, checks = study.out / "figure-04.csv", [], []
    found = [(patch, record["id"], _covered(patch, masks[record["id"]]))
             for patch in PLACES for record in cell.records]  # fmt: skip
    write_export(
        [{"id": name, "size": patch.size, "position": patch.position, "of the object": share}
         for patch, name, share in found],
        table,
    )  # fmt: skip
    for patch in PLACES:
        area = patch.size**2 / IMAGE_SIZE**2
        shares = [share for other, _, share in found if other == patch and share is not None]
        most = max(shares, default=None)
        name = f"{patch.size} pixels, {patch.position}"
        said = [f"{percent(area)} of the image", f"at most {percent(most)} of the object"]
        lines.append({"patch": name, "covers": ", ".join(said)})
        checks.append(Check(f"{name}: {said[0]}", abs(area - PRINTED[patch.size]) < 0.005))
        if shares:
            checks.append(Check(f"{name}: {said[1]}", most == 0))
    return Finding(TITLE, CLAIM, [findings.judge(checks)], [picture], table, lines)


def _box(patch: Patch) -> np.ndarray:
    """Row, column and side in pixels."""
    return np.array([*patch.corner(IMAGE_SIZE, IMAGE_SIZE), patch.size])


def _covered(patch: Patch, mask: np.ndarray | None) -> float | None:
    """The share of the object under the patch."""
    if mask is None:
        return None
    row, column, size = _box(patch)
    return float(mask[row : row + size, column : column + size].sum() / mask.sum())


if __name__ == "__main__":
    findings.main(__doc__, experiment)
