"""What the paper could not say in numbers: tables with 95 % intervals, and charts of them.

    python -m experiments.beyond --out runs/beyond
    python -m experiments.beyond --networks full --batch 128 --out runs/full

Attacks scenes held out from training, each cell of the tables in a run's folder of its own; run the
same command again after any break, and it goes on. The first network's tables are in full; of the
others there are the paper's two settings. `--networks full` is for a machine with an H200: it
trains the paper's networks on scenes first. Tables (Markdown, CSV) and charts go to `OUT/tables`.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from experiments.beyond import cells, charts, full, images, tables
from experiments.beyond.cells import Cell
from experiments.beyond.estimate import estimate
from gcpatch.attacks.settings import LEARNING_RATES
from gcpatch.errors import UserError
from gcpatch.evaluation import intervals
from gcpatch.networks import checkpoints

SETS = {
    "mini": ("mini_vgg_bn", "mini_vgg", "mini_wide_resnet", "mini_resnext"),
    "full": tuple(full.RECIPES),
}
DOTS = "success", "energy", "optimisers", "heat"  # of the tables these have a chart of dots
NOTES = """\
{scenes} scenes a cell, at most {steps} steps, random targets, verdicts after the PNG round trip;
`classify` (cross-entropy alone) is the baseline. Where no other is named: `{network}`, 64 pixels,
ratio 1, top-right, adam at a rate of {rate}. In brackets the 95 % interval over scenes: Wilson's
for rates, else the percentile bootstrap, {resamples} resamples.

*class*: the top class is the target. *map hidden*: at most 5 % of the target's map is in the patch,
what `hide` wants; *map highlighted*: at least half of it is, and its maximum: what `highlight`
wants; both are given for every objective. *goal*: a probability of 0.9, and the map as wanted, with
a margin, before the PNG; the median takes scenes that never get there for slower than all others.
A map without any heat counts as hidden, and is left out where shares of a map are given; object
and patch never overlap.
"""


def attack(options: argparse.Namespace, names: Sequence[str], planned: Sequence[Cell]) -> None:
    """Attacks what the cells lack."""
    out, count = options.out, options.scenes
    left = [cell for cell in planned if not (out / cell.folder / "summary.json").exists()]
    trains = options.networks == "full"
    recipes = full.RECIPES.items() if trains else ()
    untrained = {n: recipe for n, recipe in recipes if not (out / "networks" / n).exists()}
    for line in estimate(left, untrained, count, options.steps, options.batch):
        print(line, flush=True)
    items = cells.draw(count)
    load = partial(full.trained, out=out) if trains else checkpoints.load
    for name in names:
        network = load(name)
        cells.keep_maps(network, items, out / name / "maps.npz")
        for cell in planned:
            if cell.network == name:
                cells.attack(cell, network, items, options.steps, options.batch, out)


def write(options: argparse.Namespace, names: Sequence[str], planned: Sequence[Cell]) -> None:
    """The tables and charts of what has been attacked."""
    out, folder = options.out, options.out / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    there = [cell for cell in planned if (out / cell.folder / "summary.json").exists()]
    runs = {cell: images.read(out / cell.folder, out / cell.network / "maps.npz") for cell in there}
    described = json.loads((out / there[0].folder / "run.json").read_text())
    versions = ", ".join(f"{name} {version}" for name, version in described["versions"].items())
    made = (json.loads(path.read_text()) for path in sorted(out.glob("networks/*/manifest.json")))
    trained = [f"- `{manifest['network']}`: trained on {manifest['source']}" for manifest in made]
    lines = [
        "# Beyond the paper: tables",
        "",
        f"    {command(options)}",
        "",
        f"{versions}; Python {described['python']}; {described['device']}; "
        f"{len(there)} of {len(planned)} cells.",
        "",
        *trained,
        NOTES.format(
            scenes=options.scenes,
            steps=options.steps,
            network=names[0],
            rate=LEARNING_RATES["adam"],
            resamples=f"{intervals.RESAMPLES:,}",
        ),
    ]
    for name, table in tables.TABLES.items():
        found = tables.rows(table, runs, names)
        lines += [f"## {table.title}", "", *tables.markdown(table, found, options.steps), ""]
        tables.write_csv(table, found, folder / f"{name}.csv")
        if name == "stealth":
            charts.curves(table, found, folder / f"{name}.png")
        elif name in DOTS:
            charts.dots(table, found, tables.telling(found), folder / f"{name}.png")
    (folder / "tables.md").write_text("\n".join(lines))


def command(options: argparse.Namespace) -> str:
    """The command line that gives the same again."""
    given = (f"--{name} {value}" for name, value in vars(options).items())
    return " ".join(["python -m experiments.beyond", *given])


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.beyond",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--networks", default="mini", help="mini (the default), full, or a,b,...")
    parser.add_argument("--scenes", type=int, default=256, help="scenes a cell (256)")
    parser.add_argument("--steps", type=int, default=100, help="the most steps (100)")
    parser.add_argument("--batch", type=int, default=32, help="scenes at a time (32)")
    parser.add_argument("--out", type=Path, default=Path("runs/beyond"), help="folder to write to")
    options = parser.parse_args()
    names = SETS.get(options.networks) or tuple(options.networks.split(","))
    planned = cells.plan(names)
    try:
        attack(options, names, planned)
    except UserError as error:
        parser.exit(1, f"{error}\n")
    write(options, names, planned)
    print(options.out / "tables" / "tables.md")


if __name__ == "__main__":
    main()
