"""What of an attack is left on other networks, for other explainers, and behind defences.

    python -m experiments.transfer

Attacks scenes (64 pixels, random targets) on each mini by `highlight` and `hide`, in runs under
`--out`, which are taken up where they stopped. Shows the first of them to every mini and every
explainer (`matrix`), and all of them to their own network behind defences (`defences`), where the
last rows are attacks that know of the defence: through a stand-in with a derivative, in
expectation over its draws. Writes each table as CSV, Markdown and picture.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import gcpatch
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.universal import apply_patch, universal
from gcpatch.data import scenes, sources
from gcpatch.evaluation import transfer
from gcpatch.evaluation.defences import defence
from gcpatch.evaluation.intervals import bootstrap
from gcpatch.explainers.cam import classify_and_explain
from gcpatch.explainers.registry import METHODS
from gcpatch.networks import MINIS
from gcpatch.report import matrix, records
from gcpatch.runs import campaign
from gcpatch.runs.journal import Journal
from gcpatch.runs.progress import ConsoleProgress

SEED, SIDE, PATCH = 31, 224, Patch(64)
SLOW = ("smoothgrad", "integrated-gradients", "occlusion")  # tens to hundreds of gradients each
OBJECTIVES = ("highlight", "hide")
DEFENCES = ("jpeg-90", "jpeg-75", "jpeg-50", "blur-1", "blur-2", "bits-4", "bits-2", "crop-80")
ADAPTIVE = ("jpeg-50", "blur-2", "crop-80")


def attacked(name: str, attack: Attack, count: int, out: Path) -> Path:
    """The folder of a run on the scenes."""
    network, folder = gcpatch.load(name), out / name
    described = campaign.describe([network], PATCH, attack, {"seed": SEED, "scenes": count})
    journal = Journal(folder, described, resume=True)
    items = sources.from_scenes(SEED, count, SIDE)
    with ConsoleProgress(count, len(journal.done)) as watch:
        list(campaign.run(journal, network, items, PATCH, attack, watch=watch))
    journal.close()
    return folder


def adaptive(name: str, kind: str, attack: Attack, count: int, draws: int) -> Iterator[dict]:
    """Rows of attacks on single scenes through a defence, `draws` of it a step."""
    network, change = gcpatch.load(name), defence(kind)
    for index in tqdm(range(count), desc=f"{name} behind {kind}", unit=" images"):
        image = scenes.draw_batch(SEED, 1, size=SIDE, start=index).image[0]
        order = np.argsort(classify_and_explain(network, image)[0])
        target = int(np.random.default_rng((SEED, index)).choice(order[:-1]))
        made = universal(
            [network], image[None], [target], PATCH, attack, through=change.attack, batch=draws
        )
        worn = np.rint(np.asarray(apply_patch(image, made.noise, PATCH)[0]) * 255).astype(np.uint8)
        digest = f"{index + 1:08x}"
        seen, inside = transfer.behind(worn, PATCH.place(SIDE, SIDE), change, digest)
        logits, heat = jax.tree.map(np.asarray, classify_and_explain(network, seen, target))
        yield {
            "run": "knows the defence",
            "model": name,
            "objective": attack.objective.name,
            "id": digest,
            "defence": kind,
            "network": name,
            "method": "grad-cam",
            "fooled_class": int(logits.argmax()) == target,
            **transfer.measure(heat, inside, attack.objective.name),
        }


def accuracies(networks, count: int) -> str:
    """A table of how many clean scenes each network names right behind each defence."""
    drawn = scenes.draw_batch(SEED, count, size=SIDE)
    lines = [["clean scenes", *(network.name for network in networks)]]
    for kind in (transfer.NONE, *DEFENCES):
        change = None if kind == transfer.NONE else defence(kind).verdict
        seen = [
            image if change is None else change(image, jax.random.key(index))
            for index, image in enumerate(drawn.image)
        ]
        means = []
        for network in networks:
            found = np.asarray([classify_and_explain(network, image)[0].argmax() for image in seen])
            right = bootstrap(found == np.asarray(drawn.label))
            means.append(matrix.interval(right._asdict()))
        lines.append([kind, *means])
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """The table in every form."""
    means = transfer.summarise(rows)
    matrix.write(folder, rows, means)
    lines = [matrix.HEAD, ["---"] * len(matrix.HEAD), *map(matrix.line, means)]
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    (folder / "table.md").write_text(text)
    print(text)


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=64, help="to attack, for each mini (64)")
    parser.add_argument("--shown", type=int, default=32, help="to the quick explainers (32)")
    parser.add_argument("--slow", type=int, default=16, help="to the slow ones (16)")
    parser.add_argument("--steps", type=int, default=300, help="the most of each attack (300)")
    parser.add_argument("--known", type=int, default=16, help="attacks that know a defence (16)")
    parser.add_argument("--networks", default=",".join(MINIS), help="with commas")
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"), help="folder to write")
    options = parser.parse_args()
    names, quick = options.networks.split(","), [name for name in METHODS if name not in SLOW]
    networks = [gcpatch.load(name) for name in names]
    shown: list[dict[str, Any]] = []
    defended: list[dict[str, Any]] = []
    for objective in OBJECTIVES:
        attack = Attack(objective=objective, steps=options.steps)
        runs = [attacked(name, attack, options.scenes, options.out / objective) for name in names]
        for some, limit in ((quick, options.shown), (SLOW, options.slow)):
            asked = [image for run in runs for image in records.attacked(run, limit)]
            cells = transfer.transfer(asked, networks, some)
            shown += tqdm(cells, desc=f"{objective}: {', '.join(some)}", unit=" maps")
        for run, network in zip(runs, networks, strict=True):
            asked, through = records.attacked(run), (transfer.NONE, *DEFENCES)
            found = transfer.transfer(asked, [network], ["grad-cam"], through)
            defended += (row | {"run": "does not know it"} for row in found)
    for kind in ADAPTIVE:
        how = Attack(objective="highlight", steps=options.steps // 2)
        draws = 4 if defence(kind).moves else 1
        defended += adaptive(names[1 % len(names)], kind, how, options.known, draws)
    write(options.out / "matrix", shown)
    write(options.out / "defences", defended)
    text = accuracies(networks, options.scenes)
    (options.out / "defences" / "clean.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
