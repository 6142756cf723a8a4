"""Experiment 3, Figures 10 and 11: VGG19 and ResNeXt101, 32 pixels top right, ratio 20 %.

python -m experiments.paper.experiment3
"""

from experiments.paper import attacked, findings
from experiments.paper.study import Study

TITLE = "Experiment 3, Figures 10 and 11: two more networks, 32 pixels at 20 %"
CLAIM = "The method carries over to two other networks: patch and part of the object are hot."
FIGURES = {10: "VGG19", 11: "ResNeXt101"}


def experiment(study: Study) -> findings.Finding:
    """Draws both networks; counts labels and the heat on patch and object."""
    settings = ["printed-32", "shown-32"]
    return attacked.compare(study, TITLE, CLAIM, FIGURES, settings, findings.half_lit)


if __name__ == "__main__":
    findings.main(__doc__, experiment)
