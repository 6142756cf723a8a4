"""Any network on any labelled photographs: what the attack achieves where it matters.

    python -m experiments.real --network photos --images photos.csv --out runs/real
    python -m experiments.real --network vgg19_bn --images imagenet/val --out runs/paper
    python -m experiments.real --network mini_vgg --scenes 48 --out runs/scenes

The second line is the paper's experiment, where torchvision's weights are converted. Each cell
(objective, size and ratio, or a preset) is a run in a folder of its own; run the same command again
after any break, and it goes on. `OUT/table.md` has rates with Wilson's intervals, and medians, and
differences to `classify` image by image, with Newcombe's. Only photographs that the network
has right count, with random targets, after the PNG round trip. `-plain` is eq. 5 as it stands,
0.05 its alpha; `-ring` clears a ring of cells around the patch as well. Defaults were chosen on
every second image, from the first (`--half choosing`); what is told of them is from the others.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gcpatch.attacks.presets import PRESETS
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.cli.inputs import load_network
from gcpatch.data import hints, scenes, sources
from gcpatch.data.sources import Item
from gcpatch.errors import UserError
from gcpatch.evaluation.intervals import Estimate, bootstrap, paired_difference, rate
from gcpatch.networks import Network
from gcpatch.report.records import read_records
from gcpatch.runs import campaign
from gcpatch.runs.journal import Journal
from gcpatch.runs.options import Options
from gcpatch.runs.progress import ConsoleProgress

OBJECTIVES = ("classify", "highlight", "hide")
PAPER = ((64, 1.0), (32, 0.2))  # the paper's two settings, size and ratio
BASELINE = "classify"
HALVES = {"choosing": 0, "reporting": 1}
SEED = 20261  # of the scenes
PLAIN = Attack(balance=False, ce_weight=0.05, learning_rate=0.1)
HEAD = (
    "cell",
    "images",
    "class",
    "explanation",
    "both",
    "hidden with the ring",
    "robust accuracy",
    "energy, median",
    "steps, median",
    "steps, 90 %",
    "PSNR, dB",
    "both less `classify`",
)
Records = list[dict[str, Any]]


class Cell(NamedTuple):
    """One setting."""

    name: str
    patch: Patch
    attack: Attack


def cells(steps: int) -> list[Cell]:
    """The objectives at the paper's two settings, and its presets and [16]'s."""
    own = [
        Cell(
            f"{objective}-{size}-{ratio}",
            Patch(size, ratio),
            Attack(objective=objective, steps=steps),
        )
        for size, ratio in PAPER
        for objective in OBJECTIVES
    ]
    plain = [
        cell._replace(
            name=f"{cell.name}-plain",
            attack=replace(PLAIN, objective=cell.attack.objective, steps=steps),
        )
        for cell in own
    ]
    (size, ratio), *_ = PAPER
    ring = Cell(f"hide-{size}-{ratio}-ring", Patch(size, ratio), Attack(ring=1, steps=steps))
    presets = [
        Cell(name, patch, replace(attack, steps=min(attack.steps, steps)))
        for name, (patch, attack) in PRESETS.items()
    ]
    return [*own, *plain, ring, *presets]


def drawn(count: int, size: int) -> list[Item]:
    """Scenes with their labels."""
    known = scenes.draw_batch(SEED, count, size=size).label
    items = sources.from_scenes(SEED, count, size)
    return [
        item._replace(label=scenes.CATEGORIES[label])
        for item, label in zip(items, known, strict=True)
    ]


def add_images(parser: argparse.ArgumentParser) -> None:
    """The options that say which images."""
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--images", nargs="+", metavar="MANIFEST", help="labelled photographs")
    images.add_argument("--scenes", type=int, metavar="N", help="so many drawn scenes instead")
    parser.add_argument("--half", choices=HALVES, help="only every second image")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N")


def images_of(options: argparse.Namespace, network: Network) -> Sequence[Item]:
    """The images that the options say, with their labels."""
    size = network.preprocessing.size
    if options.scenes:
        items: Sequence[Item] = drawn(options.scenes, size)
    else:
        found = sources.find(options.images, size, "stretch", options.out)
        items, _ = hints.labelled(found.items, network.categories)
    items = items if options.half is None else items[HALVES[options.half] :: len(HALVES)]
    return items[: options.limit]


def attack(cell: Cell, network: Network, items: Sequence[Item], batch: int, out: Path) -> Records:
    """Attacks what the cell's run lacks; returns its records."""
    described = campaign.describe([network], cell.patch, cell.attack, {"images": len(items)})
    journal = Journal(out / cell.name, described, resume=True)
    with ConsoleProgress(len(items), len(journal.done)) as watch, watch.signals():
        watch.bar.set_description(cell.name)
        for _ in campaign.run(
            journal,
            network,
            items,
            cell.patch,
            cell.attack,
            options=Options(seed=0),
            batch=batch,
            watch=watch,
            write_artifacts=False,  # but adversarial.png, on which the verdicts rest
        ):
            pass
    if watch.stopped:
        raise SystemExit(128 + watch.stopped)
    journal.close()
    records = list(read_records(out / cell.name))
    errors = failed(records)
    if errors and len(errors) == len(records):
        raise UserError(f"no image has a result in {out / cell.name}: {errors[0]}")
    return records


def failed(records: Records) -> list[str]:
    """Why images have no result, one sentence each."""
    return [record["error"] for record in records if record["error"]]


def right(records: Records) -> dict[str, dict[str, Any]]:
    """The records of the images that the network has right, by id."""
    return {
        record["id"]: record
        for record in records
        if not record["error"]
        and not record["skipped"]
        and (record["label"] is None or record["label"]["id"] == record["clean"]["id"])
    }


def row(cell: Cell, records: Records, baseline: Records) -> tuple[str, ...]:
    """The table's line of a cell; `baseline` are the records of `classify` at the same setting."""
    found = right(records)
    others = right(baseline)
    values = list(found.values())

    def share(key: str) -> str:
        flags = [record[key] for record in values if record[key] is not None]
        return _text(rate(sum(flags), len(flags)), ".0%") if flags else "-"

    def number(key: str, statistic: Callable[..., Any] = np.median, form: str = ".2f") -> str:
        known = [record[key] for record in values if record[key] is not None]
        return _text(bootstrap(np.asarray(known, float), statistic), form) if known else "-"

    labelled = [r for r in records if not r["error"] and not r["skipped"] and r["label"]]
    robust = [r["clean"]["id"] == r["label"]["id"] == r["png"]["id"] for r in labelled]
    known = [i for i in found if i in others and found[i]["fooled_both"] is not None]
    both = np.array([found[i]["fooled_both"] for i in known], bool)
    alone = np.array([others[i]["fooled_class"] for i in known], bool)
    return (
        cell.name,
        str(len(values)),
        share("fooled_class"),
        share("fooled_explanation"),
        share("fooled_both"),
        share("fooled_explanation_ring"),
        _text(rate(sum(robust), len(robust)), ".0%") if robust else "-",
        number("energy_adversarial"),
        number("steps", form=".0f"),
        number("steps", _ninth, ".0f"),
        number("psnr", form=".1f"),
        _text(paired_difference(alone, both), "+.0%") if known else "-",
    )


def _ninth(values: np.ndarray, axis: int = -1) -> Any:
    return np.quantile(values, 0.9, axis=axis)


def _text(found: Estimate, form: str) -> str:
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def table(network: Network, runs: dict[Cell, Records]) -> Iterator[str]:
    """The table as Markdown."""
    by_name = {cell.name: records for cell, records in runs.items()}
    yield f"# {network.name}\n"
    clean = [r["clean"]["id"] == r["label"]["id"] for r in next(iter(runs.values())) if r["label"]]
    if clean:
        yield f"Clean accuracy: {_text(rate(sum(clean), len(clean)), '.0%')} of {len(clean)}.\n"
    for cell, records in runs.items():
        if errors := failed(records):
            yield f"{cell.name}: {len(errors)} of {len(records)} images failed: {errors[0]}\n"
    yield f"| {' | '.join(HEAD)} |"
    yield f"|{'---|' * len(HEAD)}"
    for cell, records in runs.items():
        name = f"{BASELINE}-{cell.patch.size}-{cell.patch.ratio}"
        yield f"| {' | '.join(row(cell, records, by_name.get(name, [])))} |"


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.real",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--network", required=True, metavar="NAME", help="as `gcpatch attack --model` takes it")
    add("--weights", metavar="random|DIR|FILE", help="as `gcpatch attack --weights` takes it")
    add_images(parser)
    add("--steps", type=int, default=1000, help="the most steps of an image (1000)")
    add("--batch", type=int, default=8, help="images at a time (8)")
    add("--cells", metavar="A,B,...", help="only these cells")
    add("--out", type=Path, default=Path("runs/real"), help="(runs/real)")
    options = parser.parse_args()
    try:
        network = load_network(options.network, options.weights)
        items = images_of(options, network)
        chosen = cells(options.steps)
        if options.cells:
            names = options.cells.split(",")
            if unknown := set(names) - {cell.name for cell in chosen}:
                choices = ", ".join(cell.name for cell in chosen)
                raise UserError(f"there is no cell {min(unknown)!r}; choose of {choices}")
            chosen = [cell for cell in chosen if cell.name in names]
        runs = {cell: attack(cell, network, items, options.batch, options.out) for cell in chosen}
    except UserError as error:
        parser.exit(1, f"{error}\n")
    text = "\n".join(table(network, runs)) + "\n"
    (options.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
