"""Experiment 2, Figures 8 and 9: VGG19-BN and Wide ResNet101, 32 pixels top right, ratio 20 %.

python -m experiments.paper.experiment2
"""

from experiments.paper import attacked, findings
from experiments.paper.study import Study

TITLE = "Experiment 2, Figures 8 and 9: 32 pixels at 20 %"
CLAIM = "A small, faint patch still fools label and Grad-CAM; the map keeps part of the object."
FIGURES = {8: "VGG19-BN", 9: "Wide ResNet101"}


def experiment(study: Study) -> findings.Finding:
    """Draws both networks; counts labels and the heat on patch and object."""
    settings = ["printed-32", "shown-32"]
    return attacked.compare(study, TITLE, CLAIM, FIGURES, settings, findings.half_lit)


if __name__ == "__main__":
    findings.main(__doc__, experiment)
