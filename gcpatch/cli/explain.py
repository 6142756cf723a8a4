"""`gcpatch explain`: the heatmap of each image's class."""

import argparse
from typing import Any

from gcpatch.cli import printing
from gcpatch.cli.inputs import add_images_and_model, find_images, load_network
from gcpatch.cli.options import add_json, add_named, add_verb, check_range, writing_to
from gcpatch.errors import UserError
from gcpatch.settings import choose


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = add_verb(
        verbs,
        "explain",
        run=run,
        summary="draw the explanation of each image's class",
        example="gcpatch explain photos/ --model vgg19_bn --label top --out maps",
    )
    add_images_and_model(parser)
    add_named(
        parser,
        "--method",
        registry="method",
        text="the explainer (default grad-cam); pictures show what is over 0, heat.npy is the map itself",
        default="grad-cam",
    )
    add_named(
        parser,
        "--colormap",
        registry="colormap",
        text="the pictures' colours (default jet, the paper's)",
        default="jet",
    )
    parser.add_argument(
        "--label",
        default="top",
        metavar="NAME|ID|top",
        help="the class to explain (default: the image's top class)",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Writes each image's map as a heatmap, an overlay and an array."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from gcpatch.data import images, labels
    from gcpatch.explainers import registry
    from gcpatch.report import figures

    choose("colormap", options.colormap)
    choose("method", options.method)
    choose("resize mode", options.resize_mode)
    check_range("limit", options.limit, 1)
    network = load_network(options.model, options.weights)
    items, notes = find_images(options, network, options.out)
    label = None if options.label == "top" else labels.find(options.label, network.categories)
    classify = jax.jit(lambda network, image: network(image))
    explain = registry.compiled(options.method)
    for note in notes:
        printing.warn(note, options.verb)
    rows: list[dict[str, Any]] = []
    told = False
    for item in printing.track(items[: options.limit]):
        row: dict[str, Any] = {"id": item.id, "source": item.source, "error": None}
        rows.append(row)
        try:
            picture, _, _, several = item.read()
        except UserError as error:
            row["error"] = item.blame(error)
            continue
        if several and not told:
            printing.warn(item.of_several(), options.verb)
            told = True
        image = jnp.asarray(picture, jnp.float32) / 255
        logits = classify(network, image)
        explained = int(logits.argmax()) if label is None else label
        heat = np.asarray(explain(network, image, jnp.asarray(explained)))
        odds = np.asarray(jnp.exp(logits - jnp.max(logits)))
        row |= {
            "label": {"id": explained, "name": network.categories[explained]},
            "probability": float(odds[explained] / odds.sum()),
        }
        values = figures.upsample(heat, network.preprocessing.size)
        folder = options.out / item.id
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            images.write_png(folder / "heatmap.png", figures.coloured(values, options.colormap))
            images.write_png(
                folder / "overlay.png", figures.overlay(picture, values, options.colormap)
            )
            np.save(folder / "heat.npy", heat)
    if options.json:
        printing.as_json(rows)
    else:
        printing.table(head=("image", "class", "probability"), rows=map(_cells, rows))
        print(f"heatmaps and overlays: {options.out}")
    return 1 if any(row["error"] for row in rows) else 0


def _cells(row: dict[str, Any]) -> tuple[str, str, str]:
    if row["error"]:
        return row["id"], row["error"], ""
    return row["id"], row["label"]["name"], f"{row['probability']:.3f}"
