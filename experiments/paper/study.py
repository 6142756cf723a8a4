"""The runs that the experiments share: one folder for each network and setting, made once."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gcpatch.attacks.presets import PRESETS
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.step import Losses
from gcpatch.cli.attack import MOST_ON_ACCELERATOR, MOST_ON_CPU
from gcpatch.data import images, sources
from gcpatch.errors import UserError
from gcpatch.networks import MINIS, PAPER, Preprocessing, checkpoints
from gcpatch.report import figures
from gcpatch.report.records import read_records
from gcpatch.runs import campaign
from gcpatch.runs.journal import Journal
from gcpatch.runs.options import Options
from gcpatch.runs.progress import ConsoleProgress

IMAGE_SIZE = Preprocessing().size
SEED = 3  # of the scenes, which no training saw
TITLES = ("VGG19", "VGG19-BN", "Wide ResNet101", "ResNeXt101")  # as the paper writes them
NETWORKS = {"mini": MINIS, "full": PAPER}
STEPS = {"mini": 300, "full": 1000}
CORNER = "top-right"  # where the captions have the patch; the listing's column 150 is no corner
SETTINGS: dict[str, tuple[Patch, Attack]] = {
    # The paper's algorithm 1 as printed.
    "printed-64": (Patch(64, 1.0, CORNER), PRESETS["paper-64"][1]),
    "printed-32": (Patch(32, 0.2, CORNER), PRESETS["paper-32"][1]),
    # An objective that asks for what the paper's figures show: the heat on the patch.
    "shown-64": (Patch(64, 1.0, CORNER), Attack(objective="highlight")),
    "shown-32": (Patch(32, 0.2, CORNER), Attack(objective="highlight")),
    # The method of [16], Subramanya et al., 2019; its own place is the first.
    "left": PRESETS["subramanya"],
    "right": (Patch(64, 1.0, CORNER), PRESETS["subramanya"][1]),
}
OF_16 = ("left", "right")


class Cell(NamedTuple):
    """A network in a setting: what its run left behind.

    Attributes:
        title: the network that the paper has here.
        network: the network that ran.
        setting: a name in `SETTINGS`.
        folder: the run's folder.
        records: of the images that were done, in the order of the images.
        errors: why the others have no result.
    """

    title: str
    network: str
    setting: str
    folder: Path
    records: list[dict[str, Any]]
    errors: tuple[str, ...] = ()

    def tiles(self, record: dict[str, Any]) -> list[np.ndarray]:
        """An image's panel: clean image, its Grad-CAM, attacked image, its Grad-CAM."""
        tiles = figures.panel_tiles(self.picture(record, "panel"))
        if tiles is None:
            raise UserError(f"{self.folder}/images/{record['id']}/panel.png is no panel")
        return tiles

    def picture(self, record: dict[str, Any], name: str) -> np.ndarray:
        """One of an image's files."""
        return images.read_png(self.folder / "images" / record["id"] / f"{name}.png")

    def histories(self) -> list[dict[str, np.ndarray]]:
        """Every image's losses at each step."""
        with np.load(self.folder / "histories.npz") as arrays:
            return [
                {term: arrays[f"{record['id']}/{term}"] for term in Losses._fields}
                for record in self.records
            ]


class Study:
    """Networks, images and a folder; its runs are made when they are first asked for.

    Args:
        networks: `mini` or `full`.
        source: `scenes`, or what `gcpatch attack` takes.
        scenes: how many scenes.
        steps: the most steps for an image; None for `STEPS`, and for [16]'s method its own 750.
        out: the folder for runs, figures and tables.
    """

    def __init__(self, networks: str, source: str, scenes: int, steps: int | None, out: Path):
        self.kind, self.out = networks, out
        self.networks = dict(zip(TITLES, NETWORKS[networks], strict=True))
        self.steps = {
            setting: steps or (attack.steps if setting in OF_16 else STEPS[networks])
            for setting, (_, attack) in SETTINGS.items()
        }
        self.source = f"{scenes} scenes of seed {SEED}" if source == "scenes" else source
        self.items = (
            sources.from_scenes(SEED, scenes, IMAGE_SIZE)
            if source == "scenes"
            else sources.find([source], IMAGE_SIZE, "stretch").items
        )
        self._cells: dict[tuple[str, str], Cell] = {}
        out.mkdir(parents=True, exist_ok=True)

    def cells(self, settings: Sequence[str] = (), titles: Sequence[str] = TITLES) -> list[Cell]:
        """The networks in the settings, one setting after the other; without any, all done yet."""
        asked = [(title, setting) for setting in settings for title in titles]
        return [self.cell(*which) for which in asked or self._cells]

    def cell(self, title: str, setting: str) -> Cell:
        """A network in a setting; its run is finished first."""
        if (title, setting) not in self._cells:
            self._cells[title, setting] = self._run(title, setting)
        return self._cells[title, setting]

    def _run(self, title: str, setting: str) -> Cell:
        name, (patch, attack) = self.networks[title], SETTINGS[setting]
        attack = replace(attack, steps=self.steps[setting])
        network = checkpoints.load(name)
        described = campaign.describe(
            [network],
            patch,
            attack,
            {"model": name, "setting": setting, "images": self.source, "seed": SEED},
            command=shlex.join(["python", *sys.orig_argv[1:]]),
        )
        folder = self.out / "runs" / f"{name}-{setting}"
        journal = Journal(folder, described, resume=True)
        batch = MOST_ON_CPU if jax.default_backend() == "cpu" else MOST_ON_ACCELERATOR
        print(f"{name}, {setting}", file=sys.stderr)
        with ConsoleProgress(len(self.items), len(journal.done)) as watch, watch.signals():
            list(
                campaign.run(
                    journal,
                    network,
                    self.items,
                    patch,
                    attack,
                    options=Options(seed=SEED),
                    batch=min(batch, len(self.items)),
                    watch=watch,
                )
            )
        if watch.stopped:
            sys.exit(128 + watch.stopped)
        journal.close()
        found = {record["id"]: record for record in read_records(folder)}
        records = [found[item.id] for item in self.items]
        errors = tuple(record["error"] for record in records if record["error"])
        if len(errors) == len(records):
            raise UserError(f"no image has a result in {folder}: {errors[0]}")
        return Cell(title, name, setting, folder, [r for r in records if not r["error"]], errors)


def command(doc: str, work: Callable[[Study], None]) -> None:
    """The command line of every experiment."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--networks", choices=NETWORKS, default="mini", help="bundled, or torchvision's, converted")
    add("--images", default="scenes", metavar="scenes|DIR", help="what to attack (scenes)")
    add("--out", type=Path, default=Path("runs/paper"), metavar="DIR", help="(runs/paper)")
    add("--scenes", type=int, default=8, metavar="N", help="how many scenes (8)")
    add("--steps", type=int, metavar="N", help="the most for an image (mini 300, full 1000)")
    options = parser.parse_args()
    try:
        work(Study(options.networks, options.images, options.scenes, options.steps, options.out))
    except UserError as error:
        sys.exit(f"{parser.prog}: {error}")
