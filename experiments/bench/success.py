"""Fooled images an hour, each proven on its PNG: gcpatch beside PyTorch, [16] and ART.

    python -m experiments.bench.success --networks photos,mini_vgg,vgg19_bn,wide_resnet101_2 \
        --images photos.csv --sizes 64,32 --out experiments/results/success

What `gcpatch bench --to-success` prints, with all its modes or some; minis are attacked on scenes,
what is converted on the photographs, and the other networks, whose weights are random, get
estimates (~) from the first network's steps. With `--library`, of `gcpatch universal`, every mode
that can starts from its patches, too: `-warm`. Writes OUT.json and OUT.md after each row.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gcpatch.attacks.patches import Library
from gcpatch.cli.bench import SUCCESS_HEAD, modes_to_success, rows_to_success, success_cells
from gcpatch.errors import UserError
from gcpatch.evaluation import bench, success
from gcpatch.evaluation.success import Row

BASELINE = "torch-batched"
WARM = (*success.MODES, BASELINE)  # modes that can start from a patch
NOTES = """
~: an estimate, the cost of a step on this network x the steps and the success on the first one.
`judged by`: `art` knows no explanations. `torch-subramanya` and `art` take one image at a time, the
first four. `made once`: compiling and choosing, not part of images/h.
"""


def table(rows: list[Row]) -> list[str]:
    """The rows as Markdown, beside batched PyTorch on the same network and patch."""
    head = (*SUCCESS_HEAD, f"against {BASELINE}")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    base = {(r.network, r.size, r.batch): r.images_per_hour for r in rows if r.mode == BASELINE}
    for row in rows:
        other = base.get((row.network, row.size, row.batch))
        ratio = f"{row.images_per_hour / other:.2f}x" if other else "-"
        lines.append(f"| {' | '.join((*success_cells(row), ratio))} |")
    chosen = dict.fromkeys(f"{row.mode}: {row.note}." for row in rows if row.note)
    return [*lines, NOTES, *chosen]


def main() -> None:
    """The command line; see the top of this file."""
    modes = modes_to_success()
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.success",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--networks", default="mini_vgg", metavar="A,B,...")
    parser.add_argument("--images", nargs="+", metavar="IMAGES", help="photographs")
    parser.add_argument("--count", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--sizes", default="64", help="the patch's sides (64)")
    parser.add_argument("--batches", default="8", help="images at a time (8)")
    parser.add_argument("--steps", type=int, default=200, help="the most for an image (200)")
    parser.add_argument("--modes", default=",".join(modes), metavar="A,B,...")
    parser.add_argument("--library", metavar="FILE", help="patches to start from, one a target")
    parser.add_argument("--out", type=Path, default=Path("runs/success"), help="without an ending")
    options = parser.parse_args()
    chosen = options.modes.split(",")
    if unknown := set(chosen) - modes.keys():
        parser.error(f"there is no mode {min(unknown)!r}; choose of {', '.join(modes)}")
    taken = {name: modes[name] for name in chosen}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    machine: dict[str, Any] = bench.machine()
    rows: list[Row] = []
    try:
        if options.library:
            library = Library.load(options.library)
            started = {name: success.warm(taken[name], library) for name in chosen if name in WARM}
            taken |= {f"{name}-warm": mode for name, mode in started.items()}
        for row in tqdm(
            rows_to_success(
                options.networks.split(","),
                options.images,
                list(map(int, options.sizes.split(","))),
                list(map(int, options.batches.split(","))),
                options.steps,
                taken,
                options.count,
            ),
            unit=" rows",
        ):
            rows.append(row)
            found = {"machine": machine, "rows": [row._asdict() for row in rows]}
            options.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
            options.out.with_suffix(".md").write_text("\n".join(table(rows)) + "\n")
    except UserError as error:
        parser.exit(1, f"{error}\n")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
