"""Figures 14 and 15: the method of [16], top left against top right.

    python -m experiments.paper.corners

[16] is Subramanya et al., 2019; the setting `left` is the preset `subramanya`, `right` the same
in the other corner. Their loss takes the heat away from the map's top left cells, wherever the
patch is: it hides a patch that lies there, and cannot hide one that does not.
"""

from collections.abc import Sequence
from functools import partial

from experiments.paper import attacked, findings
from experiments.paper.findings import Check
from experiments.paper.study import Cell


def _checks(cells: Sequence[Cell]) -> list[Check | None]:
    shown = findings.heat_on_patch(cells)
    if cells[0].setting == "right":
        return [shown, findings.peak_on_patch(cells)]
    return [shown._replace(holds=not shown.holds), findings.heat_on_object(cells, True)]


experiment = partial(
    attacked.compare,
    title="Figures 14 and 15: [16]'s method, top left against top right",
    claim="With the method of [16] and the patch top left, Grad-CAM keeps showing the object and "
    "not the patch; a patch top right is shown.",
    figures={14: "VGG19-BN", 15: "Wide ResNet101"},
    settings=["left", "right"],
    checks=_checks,
)

if __name__ == "__main__":
    findings.main(__doc__, experiment)
