"""Throughput of the attack beside PyTorch, all in one process, one after another.

    python -m experiments.bench --networks vgg19,vgg19_bn,wide_resnet101_2,resnext101_32x8d \
        --sizes 64,32 --batches 8 --out experiments/results/bench

Five variants: `torch-single` (the plain reference, an image at a time), `torch-batched` (the
fastest of three ways to run `convert.batched`), `gcpatch-full`, `gcpatch-incremental`, and
`gcpatch-near`, a step of which has its part of the refreshes. Writes
DIR.json after each row, and at last the table, DIR.md, and a chart, DIR.png. With a GPU, the same
command with `--batches 64,256` and `--precision tf32` or `bfloat16`.

`of the limit`: how much of what the patch's reach saves in multiply-adds arrives as speed of the
trunk against gcpatch-full. `of the peak`: multiply-adds a second, forward and backward, against a
product of large matrices here.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from convert import bench as convert_bench
from convert import specs
from experiments.bench.chart import draw
from experiments.bench.work import near_work, trunk_work
from gcpatch.evaluation import bench
from gcpatch.networks import NAMES, PAPER, Network, random
from gcpatch.runs.options import PRECISIONS

VARIANTS = (*convert_bench.VARIANTS, *bench.VARIANTS)
HEAD = (
    "network",
    "patch",
    "batch",
    "variant",
    "image-steps/s",
    "spread",
    "against torch-batched",
    "of the limit",
    "of the peak",
    "memory an image",
    "compile",
)


def network_of(name: str) -> Network:
    """A network with random weights: of the zoo, or any CNN, as torchvision:densenet121."""
    return (
        random(name) if name in NAMES else specs.convert(specs.spec_named(name), "random").network
    )


def measure(name: str, size: int, batch: int, variant: str, repeats: int, precision: str) -> Any:
    """A row, with the multiply-adds that its trunk takes for an image, forward."""
    network = network_of(name)
    full, reached = trunk_work(network, size)
    if variant in bench.VARIANTS:
        row = bench.measure(network, size, batch, variant, repeats, PRECISIONS[precision])
    else:
        row = convert_bench.measure(network, size, batch, variant, repeats, precision)
    work: float = full
    if variant == "gcpatch-incremental":
        work = reached
    elif variant == "gcpatch-near":
        work = near_work(network, size)
    return row._asdict() | {"multiply_adds": work, "limit": full / reached}


def table(found: dict[str, Any]) -> list[str]:
    """The rows as Markdown."""
    lines = [HEAD, ("---",) * len(HEAD)]
    rows = found["rows"]
    for row in rows:
        peers = {
            peer["variant"]: peer
            for peer in rows
            if all(peer[key] == row[key] for key in ("network", "size"))
            and peer["batch"] in (row["batch"], 1)
        }
        pace = row["image_steps_per_second"]
        base, full = peers.get("torch-batched"), peers.get("gcpatch-full")
        gained = full and pace / full["image_steps_per_second"] / row["limit"]
        peak = 2 * pace * row["multiply_adds"] / found["machine"]["multiply_adds_per_second"]
        lines.append(
            (
                f"`{row['network']}`",
                f"{row['size']} px",
                str(row["batch"]),
                row["variant"],
                f"{pace:.2f}",
                f"{row['spread']:.0%}",
                f"{pace / base['image_steps_per_second']:.2f}x" if base else "-",
                f"{gained:.0%} of {row['limit']:.2f}x"
                if gained and row["variant"] == "gcpatch-incremental"
                else "-",
                f"{peak:.0%}",
                f"{row['peak_memory_bytes'] / row['batch'] / 1e6:.0f} MB",
                f"{row['compile_seconds']:.0f} s",
            )
        )
    return ["| " + " | ".join(line) + " |" for line in lines]


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default=",".join(PAPER))
    parser.add_argument("--sizes", default="64,32", help="the patch's sides (64,32)")
    parser.add_argument("--batches", default="8", help="images at a time (8)")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="without an ending")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    machine = bench.machine() | convert_bench.versions() | {"precision": options.precision}
    found: dict[str, Any] = {"machine": machine, "rows": []}
    tasks = itertools.product(
        options.networks.split(","),
        map(int, options.sizes.split(",")),
        map(int, options.batches.split(",")),
        options.variants.split(","),
    )
    for name, size, batch, variant in tqdm(list(tasks), unit=" rows"):
        if variant == "torch-single" and any(
            row["variant"] == variant and row["network"] == name for row in found["rows"]
        ):
            continue  # it knows neither batches nor what a patch reaches
        try:
            row = measure(name, size, batch, variant, options.repeats, options.precision)
        except RuntimeError as error:
            tqdm.write(f"{name} {size} px, batch {batch}, {variant}: {str(error).splitlines()[0]}")
            continue
        found["rows"].append(row)
        options.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    lines = table(found)
    options.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    draw(found, options.out.with_suffix(".png"))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
