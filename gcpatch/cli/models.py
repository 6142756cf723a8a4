"""`gcpatch models`: the networks that there are, and where their weights are."""

import argparse
from typing import Any

from gcpatch.cli import printing
from gcpatch.cli.options import add_json, add_verb

HEAD = (
    "name",
    "network",
    "parameters",
    "classes",
    "size",
    "mean",
    "std",
    "target layer",
    "digest",
    "weights",
)


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = add_verb(
        verbs,
        "models",
        run=run,
        summary="list the networks, what is converted, and their weights",
        example="gcpatch models",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints a row a network: of what is converted, as it is."""
    from gcpatch.networks import NAMES, checkpoints

    converted, bundled = checkpoints.installed(), checkpoints.bundled()
    rows: list[dict[str, Any]] = []
    for name in printing.track(dict.fromkeys((*NAMES, *converted)), " networks"):
        where = str(checkpoints.home() / name) if name in converted else None
        if manifest := converted.get(name) or bundled.get(name):
            rows.append(_row(manifest) | {"name": name, "weights": where or "bundled"})
        else:
            rows.append(_of_no_weights(name))
    if options.json:
        printing.as_json(rows)
    else:
        printing.table(head=HEAD, rows=map(_cells, rows))
    return 0


def _row(manifest: dict[str, Any]) -> dict[str, Any]:
    known = {key: value for key, value in manifest.items() if key not in ("files", "versions")}
    return known | {"classes": len(manifest["categories"])}


def _of_no_weights(name: str) -> dict[str, Any]:
    """What is known of a network before there are weights."""
    from gcpatch.networks import create, manifests, parameters

    network = create(name)
    sizes = {key: leaf.size for key, leaf in parameters(network).items()}
    return _row(manifests.identity(network)) | {
        "name": name,
        "parameters": sum(
            size for key, size in sizes.items() if not key.endswith((".mean", ".var"))
        ),
        "digest": None,
        "source": None,
        "weights": None,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["name"],
        row["network"] if row["network"] != row["name"] else "",
        f"{row['parameters']:,}",
        str(row["classes"]),
        str(row["size"]),
        ",".join(f"{value:g}" for value in row["mean"]),
        ",".join(f"{value:g}" for value in row["std"]),
        row["target_layer"],
        (row["digest"] or "")[:8],
        row["weights"] or f"gcpatch convert {row['name']}",
    )
