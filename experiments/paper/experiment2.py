"""Experiment 2, Figures 8 and 9: VGG19-BN and Wide ResNet101, 32 pixels top right, ratio 20 %.

python -m experiments.paper.experiment2
"""

from functools import partial

from experiments.paper import attacked, findings

experiment = partial(
    attacked.compare,
    title="Experiment 2, Figures 8 and 9: 32 pixels at 20 %",
    claim="A small, faint patch still fools label and Grad-CAM; the map keeps part of the object.",
    figures={8: "VGG19-BN", 9: "Wide ResNet101"},
    settings=["printed-32", "shown-32"],
    checks=findings.half_lit,
)

if __name__ == "__main__":
    findings.main(__doc__, experiment)
