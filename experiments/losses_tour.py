"""A guided tour of explanation losses: some minutes of computing, a page to read in fifteen.

    python -m experiments.losses_tour --out runs/tour

Writes `index.html` and its pictures under `--out`: what Grad-CAM shows, what a loss on it does,
five losses on the same scenes, one of your own, a map drawn by hand, and why a loss on a gradient
needs a smooth network. Read this file beside the page: each chapter is a function.
"""

import argparse
import inspect
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import gcpatch
from gcpatch import losses
from gcpatch.attacks.blending import coverage
from gcpatch.attacks.regions import Region
from gcpatch.attacks.settings import Attack
from gcpatch.data import scenes
from gcpatch.data.images import write_png
from gcpatch.evaluation.metrics import energy
from gcpatch.explainers.cam import classify_and_explain
from gcpatch.losses import Loss
from gcpatch.networks import MINIS
from gcpatch.report import figures

SEED, SIDE, PATCH = 7, 224, gcpatch.Patch(64)
CE_WEIGHT = 0.05  # of the class, beside the explanation

STYLE = """
body { margin: 0 auto; max-width: 62rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: #1a1a1e; background: #fff; }
img, svg { display: block; max-width: 100%; height: auto; margin: .3rem 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { border-top: 1px solid #c8cad2; margin-top: 2rem;
  padding-top: 1rem; }
h3 { margin: 1rem 0 0; font-size: 1rem; } pre { background: #f4f4f6; padding: .6rem;
  overflow-x: auto; } p { margin: .5rem 0; }
"""


def not_below(evidence):
    """Your own loss: the share of the heat that is not in the lower half of the map."""
    rows = evidence.heat.shape[0]
    below = jnp.zeros_like(evidence.heat).at[rows // 2 :].set(1)
    return 1 - losses.energy(evidence.heat, below)


def as_before(evidence):
    """The map of the clean image, up to its scale."""
    return losses.target_cosine(evidence.clean_heat)(evidence)


def quiet_highlight(evidence):
    """A sum of two: the heat on the patch, and a smooth patch."""
    return losses.highlight(evidence) + losses.total_variation(evidence)


FIVE: dict[str, tuple[Loss, str]] = {
    "hide": (losses.hide, "The heat leaves the patch: the map does not tell any more."),
    "highlight": (losses.highlight, "All heat on the patch, as the paper's figures show."),
    "centre_of_mass": (losses.centre_of_mass, "The centre of the heat, far from where it was."),
    "as_before": (as_before, "The map of the clean image. It may cost the class, see the count."),
    "quiet_highlight": (quiet_highlight, "A sum: <code>highlight</code> with a smooth patch."),
}


class Case(NamedTuple):
    """A network, some scenes, the classes that they show, and the classes to take them for."""

    network: gcpatch.Network
    images: np.ndarray
    labels: list[int]
    targets: list[int]


class Tour:
    """A page that grows by chapters, and its pictures."""

    def __init__(self, out: Path, network: gcpatch.Network, count: int, steps: int):
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.steps = out, steps
        self.parts = ["<h1>Losses on explanations: a tour</h1>"]
        images = np.asarray(scenes.draw_batch(SEED, count, size=SIDE).image)
        labels = np.asarray(network(images)).argmax(-1)
        self.case = Case(
            network, images, labels.tolist(), ((labels + 1) % len(network.categories)).tolist()
        )

    def say(self, *paragraphs: str) -> None:
        """Adds paragraphs of HTML."""
        self.parts += [part if part.startswith("<") else f"<p>{part}</p>" for part in paragraphs]

    def code(self, function: Loss) -> None:
        """Adds a function's source."""
        self.say(f"<pre>{escape(inspect.getsource(function))}</pre>")

    def show(self, name: str, tiles: Sequence[np.ndarray], words: str) -> None:
        """Adds pictures in a row, and what they show."""
        small = [cv2.resize(tile, (160, 160), interpolation=cv2.INTER_AREA) for tile in tiles]
        gap = np.full((160, 6, 3), 255, np.uint8)
        row = np.concatenate([part for tile in small for part in (tile, gap)], axis=1)
        write_png(self.out / f"{name}.png", row)
        self.say(f'<img src="{name}.png" alt="{escape(words)}">', words)

    def attack(self, name: str, objective: Loss, region: Region = PATCH) -> None:
        """Attacks the scenes; adds the pictures, the numbers, and the loss of the first scene."""
        network, images, _, targets = self.case
        how = Attack(objective=objective, steps=self.steps, ce_weight=CE_WEIGHT)
        found = gcpatch.attack(network, images, targets, region, how)
        adversarial = np.stack([one.adversarial for one in found])
        maps = heats(network, adversarial, targets)
        fooled = int((np.asarray(network(adversarial)).argmax(-1) == targets).sum())
        words = f"Taken for the other class: {fooled} of {len(images)}."
        if region is PATCH:
            words += f" Heat on the patch: {np.mean([*map(on_patch, maps)]):.0%}."
        self.show(name, pairs(adversarial, maps), words)
        if name != "classify":
            self.say(
                "The loss on the first map, step by step:", curve(found[0].history.explanation)
            )

    def write(self) -> Path:
        """Writes the page."""
        head = f'<!doctype html><html lang="en"><meta charset="utf-8"><style>{STYLE}</style>'
        page = self.out / "index.html"
        page.write_text(head + "\n".join(self.parts) + "</html>\n", encoding="utf-8")
        return page


def heats(network: gcpatch.Network, images: np.ndarray, labels: Sequence[int]) -> list[np.ndarray]:
    """Grad-CAM of each image for a class."""
    return [
        np.asarray(classify_and_explain(network, *pair)[1])
        for pair in zip(images, labels, strict=True)
    ]


def pairs(images: np.ndarray, maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each image, and its map over it."""
    tiles = []
    for image, heat in zip(np.rint(images * 255).astype(np.uint8), maps, strict=True):
        tiles += [image, figures.overlay(image, figures.upsample(heat, SIDE))]
    return tiles


def on_patch(heat: np.ndarray) -> float:
    """The share of the heat on the patch."""
    place = PATCH.place(SIDE, SIDE)
    return energy(
        heat, np.asarray(coverage(heat.shape, (SIDE, SIDE), jnp.asarray(place.corner), place.shape))
    )


def curve(values: np.ndarray) -> str:
    """A line from the first step to the last, as SVG."""
    low, high = float(values.min()), float(values.max())
    heights = 5 + 90 * (high - values) / (high - low or 1)
    across = np.linspace(0, 600, len(values))
    points = " ".join(f"{x:.0f},{y:.1f}" for x, y in zip(across, heights, strict=True))
    return (
        f'<svg viewBox="0 0 680 100" width="680"><polyline points="{points}" fill="none" '
        f'stroke="#0072b2" stroke-width="2"/><text x="608" y="15">{high:.2g}</text>'
        f'<text x="608" y="97">{low:.2g}</text></svg>'
    )


def grad_cam(tour: Tour) -> None:
    """What the map shows, and that each class has its own."""
    network, images, labels, targets = tour.case
    tour.say(
        "<h2>1. What Grad-CAM is</h2>",
        "A network names a class c for an image. At its last layer that still has places, it has "
        "maps of features, A<sub>k</sub>. Grad-CAM weighs each by how much the score of c would "
        "grow with it, sums them, and keeps what is positive: G = ReLU(&Sigma;<sub>k</sub> "
        "&alpha;<sub>k</sub> A<sub>k</sub>). Hot cells, red, speak for c.",
    )
    for name, classes, what in (
        ("clean", labels, "Each scene, and its map for the class that the network names"),
        ("other", targets, "The same for another class"),
    ):
        words = ", ".join(network.categories[label] for label in classes)
        tour.show(name, pairs(images, heats(network, images, classes)), f"{what}: {words}.")


def what_a_loss_does(tour: Tour) -> None:
    """Without one, the map tells where the patch is."""
    tour.say(
        "<h2>2. What a loss on it does</h2>",
        "Change 64 x 64 pixels in a corner, step by step down the gradient of the cross-entropy, "
        "and the network names the other class. But the map tells why:",
    )
    tour.attack("classify", losses.classify)
    tour.say(
        "The map is a function of the pixels too, and JAX differentiates it. So add a loss on the "
        "map. It takes the <code>Evidence</code> of one image: its map, what of each cell the "
        "patch covers, the map before the attack, and more. Here, the mean heat on the patch:"
    )
    tour.code(losses.hide)


def side_by_side(tour: Tour) -> None:
    """Five losses, the same scenes."""
    tour.say(
        "<h2>3. Five losses, the same scenes</h2>",
        "<code>gcpatch/losses.py</code> has more, a function and its source for each. Their curves "
        "begin before the class has changed: at first there may be no heat for it to move.",
    )
    for name, (objective, words) in FIVE.items():
        tour.say(f"<h3>{name}</h3>", words)
        tour.attack(name, objective)


def one_of_your_own(tour: Tour) -> None:
    """A function of the evidence is a loss."""
    tour.say(
        "<h2>4. One of your own</h2>",
        "Change it in <code>experiments/losses_tour.py</code>, and run the tour again. On the "
        "command line: <code>--objective experiments.losses_tour:not_below</code>.",
    )
    tour.code(not_below)
    tour.say(
        "A map without any heat has 0 of it below, and a loss of 1: had the loss been the share "
        "above, no heat at all would have been the best that can be."
    )
    tour.attack("not_below", not_below)


def a_map_drawn_by_hand(tour: Tour) -> None:
    """Any map at all, where the whole image may change a little."""
    network, images, labels, _ = tour.case
    sides = heats(network, images[:1], labels[:1])[0].shape
    cross = np.maximum(np.eye(*sides), np.eye(*sides)[::-1])
    tour.say(
        "<h2>5. A map drawn by hand</h2>",
        "The patch reaches only part of the map. Let every pixel change instead, by 8/255 at most, "
        "which hardly shows, and ask for a cross: <code>target_cosine(cross)</code>.",
    )
    tour.attack("cross", losses.target_cosine(cross), gcpatch.Bounded(8))


def second_derivatives(tour: Tour) -> None:
    """A loss on a gradient needs a second derivative, and a network of ReLUs has none."""
    network, images, labels, _ = tour.case
    image, label = jnp.asarray(images[0]), labels[0]

    @jax.jit
    def slope(network, image):
        def saliency_in_the_corner(image):
            return gcpatch.input_gradient(network, image, label)[:64, -64:].sum()

        return jnp.abs(jax.grad(saliency_in_the_corner)(image)).max(-1)

    slopes = [np.asarray(slope(each, image)) for each in (network, gcpatch.smooth(network))]
    sharp, soft = (np.linalg.norm(found) for found in slopes)
    tour.say(
        "<h2>6. Losses on gradients</h2>",
        "Other explanations are gradients themselves, such as <code>gcpatch.input_gradient</code>. "
        "A loss on them asks for a second derivative. A network of ReLUs is linear piece by piece, "
        "its second derivative is zero, and there is nothing to descend. "
        "<code>gcpatch.smooth(network)</code> puts a softplus in the place of each ReLU.",
    )
    tour.show(
        "second",
        [figures.jet(figures.upsample(found, SIDE)) for found in slopes],
        "How the saliency in the corner changes with each pixel. Left: with ReLUs, a gradient of "
        f"length {sharp:.2g}. Right: with softplus, {soft:.2g}.",
    )


def to_try(tour: Tour) -> None:
    """Exercises."""
    tour.say(
        "<h2>7. To try</h2>",
        "<ul><li>Set <code>CE_WEIGHT</code> to 1. What becomes of the class, and of the maps?</li>"
        "<li>Take <code>--network mini_vgg_bn</code>, whose cells are smaller and see less of the "
        "image. Which losses become harder, and why?</li>"
        "<li>Make another explainer lie: a loss may call <code>gcpatch.layercam(network, "
        "evidence.image, evidence.target)</code>.</li></ul>",
    )


CHAPTERS = (
    grad_cam,
    what_a_loss_does,
    side_by_side,
    one_of_your_own,
    a_map_drawn_by_hand,
    second_derivatives,
    to_try,
)


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/tour"), help="folder to write to")
    parser.add_argument("--network", choices=MINIS, default="mini_resnext", help="(mini_resnext)")
    parser.add_argument("--scenes", type=int, default=3, help="how many (3)")
    parser.add_argument("--steps", type=int, default=150, help="the most of an attack (150)")
    options = parser.parse_args()
    tour = Tour(options.out, gcpatch.load(options.network), options.scenes, options.steps)
    for chapter in tqdm(CHAPTERS, desc="chapters"):
        chapter(tour)
    print(tour.write())


if __name__ == "__main__":
    main()
