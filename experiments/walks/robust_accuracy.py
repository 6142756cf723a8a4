"""Labelled photographs: attack them with two objectives, measure robust accuracy, compare.

    python -m experiments.walks.robust_accuracy
    python -m experiments.walks.robust_accuracy --images val/ --network vgg19_bn --steps 1000

`val/` has a folder for each class, as torchvision's ImageFolder wants it, named by the class or its
WordNet ID. Without `--images` there are drawn scenes, and one of the bundled minis.
"""

from pathlib import Path

from experiments.walks.steps import draw_photographs, gcpatch, options_of
from gcpatch import read_run

OBJECTIVES = ("classify", "hide")


def main() -> None:
    """The command line; see the top of this file."""
    parser = options_of(__doc__, "robust")
    parser.add_argument("--images", type=Path, help="a folder for each class (drawn scenes)")
    parser.add_argument("--network", default="mini_resnext", help="(mini_resnext)")
    parser.add_argument("--steps", type=int, default=60, help="the most of an attack (60)")
    options = parser.parse_args()
    images = options.images or draw_photographs(options.out / "photographs", options.count)

    # 1. Two runs over the same photographs. The same command again goes on where it stopped.
    runs = [options.out / objective for objective in OBJECTIVES]
    for objective, run in zip(OBJECTIVES, runs, strict=True):
        how = ("--objective", objective, "--steps", options.steps, "--out", run, "--resume")
        gcpatch("attack", images, "--model", options.network, *how)

    # 2. What share is named right, before the attack and after it?
    for objective, run in zip(OBJECTIVES, runs, strict=True):
        summary = read_run(run).summary
        clean, robust = summary["accuracy_clean"], summary["accuracy_robust"]
        print(f"{objective}: accuracy {clean:.0%}, under attack {robust:.0%}")

    # 3. The two runs, image by image.
    gcpatch("compare", *runs, "--out", options.out / "compare.html")


if __name__ == "__main__":
    main()
