"""What the walks share: options, commands that show themselves, and scenes as photographs."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gcpatch import cli
from gcpatch.data import scenes
from gcpatch.data.images import write_png

SEED = 31  # of the scenes


def options_of(about: str | None, name: str) -> argparse.ArgumentParser:
    """A parser with the options that every walk has."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=12, help="images to draw (12)")
    parser.add_argument("--out", type=Path, default=Path("runs/walks", name), help="where to write")
    return parser


def gcpatch(*arguments: Any) -> None:
    """Shows a command and runs it; what it could not do ends the walk."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ {shlex.join(['gcpatch', *words])}", flush=True)
    if status := cli.main(words):
        raise SystemExit(status)


def draw_photographs(
    folder: Path, count: int, categories: Sequence[str] = scenes.CATEGORIES, size: int = 224
) -> Path:
    """Scenes of these categories in a folder for each, as torchvision's ImageFolder wants them."""
    drawn = scenes.draw_batch(SEED, count * len(scenes.CATEGORIES), size=size)
    names = [scenes.CATEGORIES[label] for label in np.asarray(drawn.label)]
    chosen = [i for i, name in enumerate(names) if name in categories][:count]
    for i in chosen:
        (folder / names[i]).mkdir(parents=True, exist_ok=True)
        pixels = np.rint(np.asarray(drawn.image[i]) * 255).astype(np.uint8)
        write_png(folder / names[i] / f"{i:04d}.png", pixels)
    return folder
