"""Table 1: the layer whose map Grad-CAM draws, in each network, checked against the zoo.

    python -m experiments.paper.layers

Needs no run: the zoo knows the layers.
"""

from experiments.paper import findings
from experiments.paper.findings import Check, Finding
from experiments.paper.study import TITLES, Study
from gcpatch.export import write_export
from gcpatch.networks import PAPER, create

TITLE = "Table 1: target layers"
CLAIM = "Grad-CAM explains layer 35 or 51 of the VGGs' features, and block 2 of layer4."
PRINTED = dict(zip(TITLES, ("features.35", "features.51", "layer4.2", "layer4.2"), strict=True))


def experiment(study: Study) -> Finding:
    """Compares the table with the full-size networks; lists the layers of those that ran."""
    lines = [
        {
            "network": title,
            "in the paper": PRINTED[title],
            "in the zoo": create(name).resolve(),
            "here ran": f"{study.networks[title]}, {create(study.networks[title]).resolve()}",
        }
        for title, name in zip(TITLES, PAPER, strict=True)
    ]
    checks = [
        Check(f"{title} has {line['in the zoo']}", line["in the zoo"] == PRINTED[title])
        for title, line in zip(TITLES, lines, strict=True)
    ]
    table = study.out / "table-01.csv"
    write_export(lines, table)
    return Finding(TITLE, CLAIM, [findings.judge(checks)], [], table, lines)


if __name__ == "__main__":
    findings.main(__doc__, experiment)
