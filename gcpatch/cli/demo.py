"""`gcpatch demo`: a small campaign that needs nothing but the package."""

import argparse
from pathlib import Path
from typing import Any

from gcpatch.cli import printing
from gcpatch.cli.options import add_json, add_verb, command

SCENES, STEPS, SEED = 4, 300, 7


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = add_verb(
        verbs,
        "demo",
        run=run,
        summary="attack bundled scenes with bundled networks, offline, in a minute",
        example="gcpatch demo --out demo",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("gcpatch-demo"),
        metavar="DIR",
        help="the run's folder (default gcpatch-demo)",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Attacks every scene with every mini; returns 0 if each of these was fooled once."""
    import shutil

    from gcpatch.attacks.regions import Patch
    from gcpatch.attacks.settings import Attack
    from gcpatch.data import sources
    from gcpatch.networks import MINIS, checkpoints
    from gcpatch.report import page
    from gcpatch.runs import campaign, progress
    from gcpatch.runs.journal import Journal, is_run_of

    patch, attack = Patch(), Attack(objective="hide", steps=STEPS)
    networks = [checkpoints.load(name) for name in MINIS]
    settings = {"model": "the bundled minis", "images": f"scenes of seed {SEED}"}
    described = campaign.describe(networks, patch, attack, settings, command=command())
    if is_run_of(options.out, described):  # an older demo, which nobody misses
        shutil.rmtree(options.out)
    journal = Journal(options.out, described)
    records: list[dict[str, Any]] = []
    with progress.ConsoleProgress(SCENES * len(networks)) as watch:
        for network in networks:
            items = [
                item._replace(id=f"{network.name}-{item.id}")
                for item in sources.from_scenes(SEED, SCENES, network.preprocessing.size)
            ]
            records += campaign.run(
                journal, network, items, patch, attack, batch=SCENES, watch=watch
            )
    journal.close()
    written = page.write_report(options.out)
    if options.json:
        printing.as_json(records)
    else:
        printing.records(records)
    printing.warn(f"pictures, records and the report: {written}")
    fooled = {record["model"] for record in records if record["fooled_both"]}
    return 0 if len(fooled) == len(networks) else 1
