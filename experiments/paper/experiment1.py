"""Experiment 1, Figures 6 and 7: VGG19-BN and Wide ResNet101, 64 pixels top right, ratio 100 %.

python -m experiments.paper.experiment1
"""

from functools import partial

from experiments.paper import attacked, findings

experiment = partial(
    attacked.compare,
    title="Experiment 1, Figures 6 and 7: 64 pixels at 100 %",
    claim="Label and Grad-CAM are fooled: the map shows the patch alone, nothing of the object.",
    figures={6: "VGG19-BN", 7: "Wide ResNet101"},
    settings=["printed-64", "shown-64"],
    checks=findings.lit,
)

if __name__ == "__main__":
    findings.main(__doc__, experiment)
