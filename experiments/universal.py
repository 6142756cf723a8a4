"""One patch for many images, for four networks, and for any placement, beside one for each image.

    python -m experiments.universal

Each patch is made on 500 scenes (the per-image ones on the scenes that they are tested on) and
tested on 500 others that nobody has seen: every scene is to be taken for one and the same class.
Prints a Markdown table with 95 % intervals over scenes (of rates Wilson's, else bootstrap), and
writes it and the patches to `--out`. Verdicts are of 8-bit pixels.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from tqdm import tqdm

import gcpatch
from gcpatch.attacks.blending import coverage
from gcpatch.attacks.objectives import fooled_explanation
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.universal import apply_patch, universal
from gcpatch.attacks.views import Views
from gcpatch.data import images, scenes
from gcpatch.evaluation import metrics
from gcpatch.evaluation.intervals import bootstrap
from gcpatch.explainers.cam import classify_and_explain
from gcpatch.networks import MINIS

MADE_ON, TESTED_ON, SIDE, TARGET = 21, 22, 224, 0  # seeds of the scenes; a class
PATCH, VIEWS = Patch(64), Views()
HEAD = ("patch", "made on", "tested on", "placed", "target class", "explanation", "energy")


def draw(seed: int, count: int) -> jax.Array:
    """Scenes of any class but the target."""
    drawn = scenes.draw_batch(seed, count * 5 // 4 + 10, size=SIDE)
    return drawn.image[np.asarray(drawn.label) != TARGET][:count]


@partial(jax.jit, static_argnames="views")
def shown(network, drawn, noises, views, seed):
    """Logits, map of the target, and the patch's share of its cells, for each scene."""

    def one(entry):
        image, noise, key = entry
        worn, region = apply_patch(image, noise, PATCH, views, key)
        logits, heat = classify_and_explain(network, jnp.round(worn * 255) / 255, TARGET)
        size = image.shape[:2]
        return logits, heat, coverage(heat.shape, size, (0, 0), size, region)

    keys = jax.random.split(jax.random.key(seed), len(drawn))
    return lax.map(one, (drawn, noises, keys), batch_size=8)


def test(network, drawn, noises, views, objective: str) -> list[str]:
    """Of a patch (or one for each scene): class, explanation and energy with their intervals."""
    if noises.ndim == 3:
        noises = jnp.broadcast_to(noises, (len(drawn), *noises.shape))
    found = zip(*map(np.asarray, shown(network, drawn, noises, views, TESTED_ON)), strict=True)
    rows = []
    for logits, heat, covered in found:
        energy, points = metrics.energy(heat, covered), metrics.pointing(heat, covered)
        fooled = fooled_explanation(objective, energy, points)
        rows.append((logits.argmax() == TARGET, fooled, energy))
    means = [bootstrap(np.asarray(column)) for column in zip(*rows, strict=True)]
    return [f"{mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}]" for mean in means]


def craft(names: Sequence[str], drawn, attack: Attack, views: Views | None) -> np.ndarray:
    """A patch's noise, with a bar of its steps."""
    with tqdm(total=attack.steps, desc="+".join(names), unit=" steps") as bar:
        networks = [gcpatch.load(name) for name in names]
        targets = [TARGET] * len(drawn)
        made = universal(
            networks, drawn, targets, PATCH, attack, views=views, on_step=lambda _: bar.update()
        )
    return made.noise


def rows(drawn, others, attack: Attack, alone: int, out: Path) -> list[tuple[str, ...]]:
    """The table of one objective."""
    first, objective = MINIS[1], attack.objective.name
    patches: dict[tuple[str, str], Any] = {
        ("universal", first): craft([first], drawn, attack, None),
        ("universal, any view", first): craft([first], drawn, attack, VIEWS),
        ("ensemble", "all four"): craft(MINIS, drawn, attack, None),
    }
    some = others[:alone]
    single = gcpatch.attack(
        gcpatch.load(first), np.asarray(some), [TARGET] * len(some), PATCH, attack
    )
    patches["one for each image", first] = np.stack([each.tile for each in single])
    table = []
    for (kind, made_on), noise in patches.items():
        tested = some if noise.ndim == 4 else others
        picture = noise[0] if noise.ndim == 4 else noise
        name = f"{objective}-{kind.replace(', ', '-').replace(' ', '-')}"
        images.write_png(out / f"{name}.png", np.rint(picture * 255).astype(np.uint8))
        for network, views in [(name, None) for name in MINIS] + [(first, VIEWS)]:
            found = test(gcpatch.load(network), tested, jnp.asarray(noise), views, objective)
            where = "anywhere" if views else "in place"
            table.append((f"{kind}, {objective}", made_on, network, where, *found))
    return table


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=500, help="to make on and test on (500)")
    parser.add_argument("--steps", type=int, default=300, help="steps of each patch (300)")
    parser.add_argument("--alone", type=int, default=64, help="scenes with their own patch (64)")
    parser.add_argument("--objectives", default="highlight,hide", help="with commas")
    parser.add_argument("--out", type=Path, default=Path("runs/universal"), help="folder to write")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    drawn, others = draw(MADE_ON, options.scenes), draw(TESTED_ON, options.scenes)
    lines: list[Sequence[str]] = [HEAD, ["---"] * len(HEAD)]
    for objective in options.objectives.split(","):
        attack = Attack(objective=objective, steps=options.steps)
        lines += rows(drawn, others, attack, options.alone, options.out)
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    (options.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
