"""Away from the label: which loss of the class leads an untargeted attack to its goal?

    python -m experiments.untargeted
    python -m experiments.untargeted --ratio 0.3

`hide` on 16 held-out scenes, 64 pixels, at most 100 steps; the goal is a hidden patch and another
class with a probability of 0.9. Prints a Markdown table, a line as soon as it is known.
"""

import argparse
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np

from gcpatch.attacks import engine, slots, step
from gcpatch.attacks.blending import coverage
from gcpatch.attacks.objectives import HIDDEN
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.data import scenes
from gcpatch.evaluation import metrics
from gcpatch.explainers.cam import classify_and_explain
from gcpatch.losses import Evidence, Loss, cross_entropy
from gcpatch.networks import Network, checkpoints

SEED, SIDE = 11, 224  # of scenes that training never sees
ATTACK = Attack(objective="hide", steps=100)


def not_the_label(evidence: Evidence):
    """-log(1 - p_label)."""
    others = evidence.logits.at[evidence.label].set(-jnp.inf)
    return jax.nn.logsumexp(evidence.logits) - jax.nn.logsumexp(others)


def margin(evidence: Evidence):
    """The label's logit less the best other's (Carlini and Wagner, 2017)."""
    return evidence.logits[evidence.label] - evidence.logits[evidence.target]


def less_of_the_label(evidence: Evidence):
    """The label's cross-entropy, to be as large as can be (Madry et al., 2018)."""
    return jax.nn.log_softmax(evidence.logits)[evidence.label]


LOSSES: dict[str, Loss] = {
    "cross-entropy of the best other class": cross_entropy,
    "-log(1 - p_label)": not_the_label,
    "margin": margin,
    "negative cross-entropy of the label": less_of_the_label,
}


def row(network: Network, images: np.ndarray, region: Patch, loss: Loss) -> tuple[list, float]:
    """How often class, explanation and both are fooled in 8 bits, and the mean steps."""
    engine._one_step.cache_clear()
    with patch.object(step, "cross_entropy", loss):
        results = slots.attack(network, images, None, region, ATTACK, batch=16)
    place = region.place(SIDE, SIDE)
    verdicts = []
    for image, result in zip(images, results, strict=True):
        png = np.rint(result.adversarial * 255).astype(np.float32) / 255
        logits, heat = map(np.asarray, classify_and_explain(network, png))
        covered = coverage(heat.shape, (SIDE, SIDE), jnp.asarray(place.corner), place.shape)
        of_class = logits.argmax() != network(image).argmax()
        of_map = metrics.energy(heat, np.asarray(covered)) <= HIDDEN
        verdicts.append((of_class, of_map, of_class and of_map))
    return np.mean(verdicts, axis=0).tolist(), float(np.mean([one.steps for one in results]))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ratio", type=float, default=1.0)
    parser.add_argument("--scenes", type=int, default=16)
    options = parser.parse_args()
    network = checkpoints.load("mini_vgg")
    drawn = scenes.draw_batch(SEED, options.scenes, size=SIDE).image
    images = np.rint(np.asarray(drawn) * 255).astype(np.float32) / 255
    print("| loss | class | explanation | both | steps |")
    print("| --- | --- | --- | --- | --- |")
    for name, loss in LOSSES.items():
        rates, steps = row(network, images, Patch(64, options.ratio), loss)
        print(
            f"| {name} | {' | '.join(f'{rate:.0%}' for rate in rates)} | {steps:.1f} |", flush=True
        )


if __name__ == "__main__":
    main()
