"""Experiment 1, Figures 6 and 7: VGG19-BN and Wide ResNet101, 64 pixels top right, ratio 100 %.

python -m experiments.paper.experiment1
"""

from experiments.paper import attacked, findings
from experiments.paper.study import Study

TITLE = "Experiment 1, Figures 6 and 7: 64 pixels at 100 %"
CLAIM = "Label and Grad-CAM are fooled: the map shows the patch alone, nothing of the object."
FIGURES = {6: "VGG19-BN", 7: "Wide ResNet101"}


def experiment(study: Study) -> findings.Finding:
    """Draws both networks; counts labels and the heat on patch and object."""
    settings = ["printed-64", "shown-64"]
    return attacked.compare(study, TITLE, CLAIM, FIGURES, settings, findings.lit)


if __name__ == "__main__":
    findings.main(__doc__, experiment)
