"""What the figures of attacked images share: two networks, a figure for each."""

from collections.abc import Callable, Sequence

from experiments.paper import drawing, findings
from experiments.paper.findings import Check, Finding
from experiments.paper.study import SETTINGS, Cell, Study

Checks = Callable[[Sequence[Cell]], list[Check | None]]


def compare(
    study: Study,
    title: str,
    claim: str,
    figures: dict[int, str],
    settings: list[str],
    checks: Checks,
) -> Finding:
    """Draws clean and attacked images in all settings, and judges each setting.

    Args:
        study: its runs.
        title: the finding's.
        claim: what the paper says.
        figures: the network of each figure, by the figure's number.
        settings: names in `SETTINGS`, the columns.
        checks: what a setting's cells must show.
    """
    name = "-".join(f"{number:02}" for number in figures)
    every = study.cells(settings, tuple(figures.values()))
    pictures = []
    for number, network in figures.items():
        cells = [study.cell(network, setting) for setting in settings]
        patch = SETTINGS[settings[0]][0]
        about = (
            f"{network} ({cells[0].network}), {patch.size} pixels, ratio {100 * patch.ratio:.0f} %"
        )
        shown = (drawing.SHOWN[setting] for setting in settings)
        columns = ["clean", "Grad-CAM", *(c for s in shown for c in (s, "Grad-CAM of the target"))]
        rows = [
            [
                *drawing.before(cells[0], records[0]),
                *(t for c, r in zip(cells, records, strict=True) for t in drawing.after(c, r)),
            ]
            for records in drawing.examples(cells)
        ]
        path = study.out / f"figure-{number:02}.png"
        pictures.append(drawing.grid(path, f"Figure {number}: {about}", columns, rows))
    verdicts = [
        findings.judge(checks(study.cells([s], tuple(figures.values()))), f"{drawing.SHOWN[s]}: ")
        for s in settings
    ]
    table = findings.write_records(study.out / f"figure-{name}.csv", every)
    return Finding(title, claim, verdicts, pictures, table, findings.rows(every))
