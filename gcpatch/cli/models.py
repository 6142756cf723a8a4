"""`gcpatch models`: the networks that there are, and where their weights are."""

import argparse
from typing import Any

from gcpatch.cli import printing
from gcpatch.cli.options import add_json, add_verb

HEAD = ("network", "parameters", "target layer", "classes", "weights")


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = add_verb(
        verbs,
        "models",
        run=run,
        summary="list the networks and their weights",
        example="gcpatch models",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Prints a row a network."""
    import numpy as np

    from gcpatch.networks import MINIS, NAMES, checkpoints, create, parameters

    installed = checkpoints.installed()
    rows: list[dict[str, Any]] = []
    for name in printing.track(NAMES, " networks"):
        network = create(name)
        trained = [
            leaf for key, leaf in parameters(network).items() if not key.endswith((".mean", ".var"))
        ]
        bundled = "bundled" if name in MINIS else None
        row = {
            "name": name,
            "parameters": sum(int(np.prod(leaf.shape)) for leaf in trained),
            "target_layer": network.target_layer,
            "classes": len(network.categories),
            "weights": str(checkpoints.home() / name) if name in installed else bundled,
        }
        rows.append(row)
    if options.json:
        printing.as_json(rows)
    else:
        printing.table(head=HEAD, rows=map(_cells, rows))
    return 0


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["name"],
        f"{row['parameters']:,}",
        row["target_layer"],
        str(row["classes"]),
        row["weights"] or f"gcpatch convert {row['name']}",
    )
