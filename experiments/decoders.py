"""Whether plain JPEG and PNG photographs give the pixels that an older reader gave.

    git worktree add ../before 39a2235
    python -m experiments.decoders ../before/gcpatch/images.py [FOLDER...]

Compares the older `decode` with today's, on the JPEG and PNG files of the folders and on drawn
scenes of several sizes in every plain kind, for both resize modes.
"""

import argparse
import importlib.util
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.formats import File, encode
from gcpatch.data import images
from gcpatch.data.folders import find_files
from gcpatch.data.listing import LeftOut
from gcpatch.data.scenes import draw_batch

SIZE, SCENES = 224, 12
SIDES = ((224, 224), (500, 375), (333, 500), (640, 480), (97, 130))
KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("JPEG", {"quality": 90}),
    ("JPEG", {"quality": 95, "subsampling": 0}),
    ("JPEG", {"quality": 75, "progressive": True}),
    ("PNG", {}),
)


def drawn() -> Iterator[File]:
    """Scenes in colour and in grey."""
    pixels = np.rint(np.asarray(draw_batch(1, SCENES, size=640).image) * 255).astype(np.uint8)
    for scene in map(Image.fromarray, pixels):
        for side in SIDES:
            for mode in ("RGB", "L"):
                picture = scene.resize(side).convert(mode)
                for kind, options in KINDS:
                    yield File("drawn", f"{kind} {mode}", encode(picture, kind, **options))


def given(folders: Iterable[str]) -> Iterator[File]:
    """The JPEG and PNG files of folders."""
    for entry in find_files(folders, os.path.realpath, LeftOut()):
        if Path(entry.path).suffix.lower() in (".jpg", ".jpeg", ".png"):
            yield File("photographs", entry.path, Path(entry.path).read_bytes())


def main() -> None:
    """Prints how many files are equal, and by how much the others differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, metavar="IMAGES.py", help="the older reader")
    parser.add_argument("folders", nargs="*", metavar="FOLDER")
    options = parser.parse_args()
    spec = importlib.util.spec_from_file_location("before", options.before)
    assert spec and spec.loader
    before = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(before)
    files = [*(given(options.folders) if options.folders else ()), *drawn()]
    print("| files | resize mode | number | equal | largest difference, levels | mean |")
    print("|---|---|---|---|---|---|")
    for source in dict.fromkeys(file.container for file in files):
        for mode in images.RESIZE_MODES:
            worst, mean, equal, some = 0, 0.0, 0, [f for f in files if f.container == source]
            for file in some:
                old, new = (m.decode(file.data, file.name, SIZE, mode) for m in (before, images))
                apart = np.abs(old.astype(int) - new)
                worst, mean = max(worst, int(apart.max())), max(mean, float(apart.mean()))
                equal += not apart.any()
            print(f"| {source} | {mode} | {len(some)} | {equal} | {worst} | {mean:.3f} |")


if __name__ == "__main__":
    main()
