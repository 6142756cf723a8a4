"""Experiment 3, Figures 10 and 11: VGG19 and ResNeXt101, 32 pixels top right, ratio 20 %.

python -m experiments.paper.experiment3
"""

from functools import partial

from experiments.paper import attacked, findings

experiment = partial(
    attacked.compare,
    title="Experiment 3, Figures 10 and 11: two more networks, 32 pixels at 20 %",
    claim="The method carries over to two other networks: patch and part of the object are hot.",
    figures={10: "VGG19", 11: "ResNeXt101"},
    settings=["printed-32", "shown-32"],
    checks=findings.half_lit,
)

if __name__ == "__main__":
    findings.main(__doc__, experiment)
