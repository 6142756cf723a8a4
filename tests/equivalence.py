"""One fixed command for each verb, so that two versions of gcpatch can be compared byte for byte.

    python tests/equivalence.py make FOLDER     # with the version that is to be compared
    python tests/equivalence.py compare A B     # pictures equal; records, in the fields both have

Both folders must be made on one machine, because rounding differs between processors. The scenes
are written to FOLDER/../scenes, which both share.
"""

import json
import subprocess
import sys
from pathlib import Path

OBJECTIVES = "hide", "highlight", "classify"
PRESETS = "paper-64", "paper-32", "subramanya"
METHODS = [
    "grad-cam",
    "hirescam",
    "grad-cam++",
    "xgrad-cam",
    "layercam",
    "eigen-cam",
    "input-gradient",
    "gradient-x-input",
    "smoothgrad",
    "integrated-gradients",
    "guided-backprop",
    "occlusion",
]
DRAW = """
import sys, numpy as np
from pathlib import Path
try:
    from gcpatch.data import images, scenes
except ImportError:
    from gcpatch import images, scenes
folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
for i, image in enumerate(np.asarray(scenes.draw_batch(11, 3).image)):
    images.write_png(folder / f"scene{i}.png", np.rint(image * 255).astype(np.uint8))
"""
UNIVERSAL = """
import sys, numpy as np, gcpatch
try:
    from gcpatch.data import scenes
except ImportError:
    from gcpatch import scenes
made = gcpatch.universal(
    [gcpatch.load("mini_vgg")], scenes.draw_batch(4, 4).image, [2] * 4, gcpatch.Patch(64),
    gcpatch.Attack(objective="highlight", steps=5), views=gcpatch.Views(), batch=4,
)
np.save(sys.argv[1], made.noise)
"""


def make(folder: Path) -> None:
    """Runs every command; what a verb prints goes into a file beside what it writes."""
    folder.mkdir(parents=True)
    scenes = str(folder.resolve().parent / "scenes")
    run(sys.executable, "-c", DRAW, scenes)
    attack = ("attack", scenes, "--model", "mini_vgg", "--steps", "15", "--batch", "3")
    for name in OBJECTIVES:
        verb(folder, name, *attack, "--objective", name, "--out", str(folder / name))
    for name in PRESETS:
        verb(folder, name, *attack, "--preset", name, "--out", str(folder / name))
    for name in ("frame", "linf"):
        verb(folder, name, *attack, f"--{name}", "9", "--out", str(folder / name))
    explain = ("explain", f"{scenes}/scene0.png", "--model", "mini_resnext", "--json")
    for name in METHODS:
        verb(folder, name, *explain, "--method", name, "--out", str(folder / f"maps-{name}"))
    verb(
        folder,
        "transfer",
        "transfer",
        str(folder / "highlight"),
        "--models",
        "mini_vgg_bn",
        "--defences",
        "jpeg-75",
        "--json",
    )
    verb(
        folder,
        "verify",
        "verify",
        "mini_vgg",
        "--weights",
        "random",
        "--images",
        scenes,
        "--steps",
        "2",
        "--json",
    )
    verb(folder, "run", "verify", "--run", str(folder / "hide"), "--json")
    verb(folder, "report", "report", str(folder / "hide"), "--export", str(folder / "hide.csv"))
    run(sys.executable, "-c", UNIVERSAL, str(folder / "universal.npy"))


def verb(folder: Path, name: str, *arguments: str) -> None:
    """Runs `gcpatch` and keeps what it prints."""
    said = run(sys.executable, "-m", "gcpatch", *arguments)
    (folder / f"{name}.out").write_text(said.replace(str(folder), "FOLDER"))


def run(*command: str) -> str:
    """What a command prints; it must succeed."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def compare(first: Path, second: Path) -> list[str]:
    """What differs: pictures, arrays, and the fields that records of both versions have."""
    differing = []
    for path in sorted(first.rglob("*")):
        other = second / path.relative_to(first)
        if path.suffix in (".png", ".npy") and path.read_bytes() != other.read_bytes():
            differing.append(str(path.relative_to(first)))
        if path.suffix in (".jsonl", ".out") and not same(path.read_text(), other.read_text()):
            differing.append(str(path.relative_to(first)))
    return differing


def same(ours: str, theirs: str) -> bool:
    """Whether two texts agree, as JSON in the fields that both have, else to the letter."""
    try:
        both = [[json.loads(line) for line in text.splitlines()] for text in (ours, theirs)]
    except ValueError:
        try:
            both = [json.loads(text) for text in (ours, theirs)]
        except ValueError:
            return ours == theirs
    return agree(*both)


def agree(ours: object, theirs: object) -> bool:
    """Equality, but for the fields of records that one version lacks."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return all(agree(ours[key], theirs[key]) for key in ours.keys() & theirs.keys())
    if isinstance(ours, list) and isinstance(theirs, list):
        ordered = [sorted(rows, key=json.dumps) for rows in (ours, theirs)]
        return len(ours) == len(theirs) and all(map(agree, *ordered))
    return ours == theirs


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", folder]:
            make(Path(folder))
        case ["compare", a, b]:
            found = compare(Path(a), Path(b))
            print("\n".join(found) or "nothing differs")
            sys.exit(bool(found))
        case _:
            sys.exit(__doc__)
