"""`gcpatch universal`: one patch for many images, networks and views; one for each target."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gcpatch.attacks.fields import ViewFields
from gcpatch.cli import printing
from gcpatch.cli.attack.settings import add_settings, region_and_attack
from gcpatch.cli.inputs import add_images, add_model, find_images, load_network
from gcpatch.cli.options import add_fields, add_json, add_verb, check_range, given
from gcpatch.errors import UserError
from gcpatch.runs.options import MOST_SEED
from gcpatch.settings import choose

STEPS = 100  # of each patch, unless the options or a preset say
HEAD = ("target", "network", "images", "class", "explanation", "energy")


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = add_verb(
        verbs,
        "universal",
        run=run,
        summary="make one patch for many images, or one for each of several targets",
        example="gcpatch universal photos/ --model vgg19_bn --targets tabby,toaster --steps 50 --out library.npz\n"
        "  gcpatch attack other-photos/ --model vgg19_bn --target tabby --init library.npz --out runs/warm",
    )
    add_images(parser)
    add_model(parser, "; several make an ensemble", required=True, action="append")
    parser.set_defaults(again="go on with the same command and --resume")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE.npz", help="the file to write"
    )
    parser.add_argument(
        "--targets",
        default="random",
        metavar="NAME|ID,...|all|random",
        help="the classes that images shall be taken for, each with a patch of its own; random (default): one, by the seed",
    )
    add_settings(parser, steps=STEPS)
    parser.add_argument(
        "--views",
        action="store_true",
        help="a patch that works anywhere, turned, larger and smaller, lighter and darker",
    )
    add_fields(parser, ViewFields)
    parser.add_argument(
        "--through",
        metavar="DEFENCE",
        help="what images go through before the networks: jpeg-QUALITY, blur-SIGMA, bits-N, crop-PERCENT",
    )
    parser.add_argument(
        "--batch", type=int, default=16, metavar="N", help="images a step (default 16)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of all that is random (default 0)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the targets that the file lacks"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Makes the patches, writes them after each, and prints whom they fool; 1 if one failed."""
    from tqdm import tqdm

    from gcpatch.attacks.views import Views
    from gcpatch.evaluation.defences import defence
    from gcpatch.runs import library

    choose("resize mode", options.resize_mode)
    check_range("batch", options.batch, 1)
    check_range("seed", options.seed, 0, MOST_SEED)
    if options.out.exists() and not options.resume:
        raise UserError(
            f"{options.out} is there already; go on with --resume or choose another file"
        )
    region, attack = region_and_attack(options, steps=STEPS)
    asked = given(options, ViewFields)
    views = Views(**asked) if options.views or asked else None
    through = defence(options.through).attack if options.through else None
    networks = [load_network(name, options.weights, options.seed) for name in options.model]
    first = networks[0]
    for other in networks:
        if other.preprocessing.size != first.preprocessing.size:
            raise UserError(
                f"{first.name} takes {first.preprocessing.size} pixels and {other.name} "
                f"{other.preprocessing.size}; the networks of an ensemble take images of one size"
            )
    region.place(*[first.preprocessing.size] * 2)
    targets = targets_of(options.targets, first.categories, options.seed)
    found = find_images(options, first, options.out)
    seen = library.see(first, printing.track(found.items))
    notes = [*found.notes, *seen.unread]
    with tqdm(total=attack.steps * len(targets), unit=" steps", delay=2, disable=None) as bar:
        made = library.make_library(
            options.out,
            networks,
            seen,
            targets,
            region,
            attack,
            views=views,
            through=through,
            batch=options.batch,
            seed=options.seed,
            more={"through": options.through},
            on_target=bar.set_description,
            on_step=bar.update,
            note=notes.append,
        )
    for note in notes:
        printing.warn(note, options.verb)
    rows = [
        _row(network, made[target], seen, attack)
        for target in targets
        if target in made
        for network in networks
    ]
    if options.json:
        printing.as_json(rows)
    else:
        printing.table(head=HEAD, rows=map(_cells, rows))
        print(f"{len(made)} {'patch' if len(made) == 1 else 'patches'}: {options.out}")
    return 1 if seen.unread or set(targets) - set(made) else 0


def targets_of(text: str, categories: Sequence[str], seed: int) -> list[int]:
    """The classes that `--targets` names.

    Raises:
        UserError: one of them is no class.
    """
    import numpy as np

    from gcpatch.data import labels

    if text == labels.UNTARGETED:
        raise UserError(
            "a patch for many images needs a target; untargeted is `gcpatch attack` alone"
        )
    if text == "all":
        return list(range(len(categories)))
    if text == "random":
        return [int(np.random.default_rng(seed).integers(len(categories)))]
    return list(dict.fromkeys(labels.find(name, categories) for name in text.split(",")))


def _row(network: Any, patch: Any, seen: Any, attack: Any) -> dict[str, Any]:
    """Whom a patch in its place fools of the images that it was made from, in 8 bits."""
    import numpy as np

    from gcpatch.attacks.blending import coverage
    from gcpatch.evaluation import metrics
    from gcpatch.explainers.cam import classify_and_explain

    others = seen.images[seen.tops != patch.target]
    place = patch.place(*others.shape[1:3])
    judged = []
    for image in others:
        attacked = np.rint(patch.apply(image) * 255).astype(np.float32) / 255
        logits, map_ = classify_and_explain(
            network, attacked, patch.target, layer=attack.layer, explainer=attack.explainer
        )
        heat = np.asarray(map_)
        covered = np.asarray(
            coverage(heat.shape, image.shape[:2], place.corner, place.shape, place.ratio)
        )
        energy, points = metrics.energy(heat, covered), metrics.pointing(heat, covered)
        wanted = attack.objective.fooled
        judged.append(
            (int(np.argmax(logits)) == patch.target, wanted and wanted(energy, points), energy)
        )
    fooled, explanation, energies = zip(*judged, strict=True)
    return {
        "target": {"id": patch.target, "name": patch.target_name},
        "network": network.name,
        "images": len(others),
        "fooled_class": float(np.mean(fooled)),
        "fooled_explanation": float(np.mean(explanation)) if attack.objective.fooled else None,
        "energy": float(np.mean(energies)),
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    explanation = row["fooled_explanation"]
    return (
        row["target"]["name"],
        row["network"],
        str(row["images"]),
        f"{row['fooled_class']:.0%}",
        "-" if explanation is None else f"{explanation:.0%}",
        f"{row['energy']:.2f}",
    )
