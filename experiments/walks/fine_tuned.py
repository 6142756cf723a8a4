"""A fine-tuned PyTorch checkpoint: convert it, prove that it is the same network, explain it.

    python -m experiments.walks.fine_tuned
    python -m experiments.walks.fine_tuned --network resnet50 --checkpoint mine.pth \
        --classes classes.txt --images photos/

Without `--checkpoint` a bundled mini gets a new last layer in PyTorch, for three of its ten
classes, and is saved as a training script would.
"""

from pathlib import Path

from experiments.walks.steps import draw_photographs, gcpatch, options_of

CLASSES = ("stripes", "dots", "rings")


def fine_tune(name: str, images: Path, checkpoint: Path, steps: int = 200) -> None:
    """Trains a new last layer of a mini on the photographs, and saves its state_dict."""
    import numpy as np
    import torch

    from convert.checking.twins import twin
    from convert.torchvision import to_torch
    from gcpatch import load, read_image

    network = load(name)
    files = sorted(images.rglob("*.png"))
    labels = torch.tensor([CLASSES.index(file.parent.name) for file in files])
    pixels = np.stack([read_image(file, network.preprocessing.size) for file in files])
    normalized = (pixels / 255 - network.mean) / network.std

    torch.manual_seed(0)
    module = twin(name, len(CLASSES))
    weights = to_torch(network)
    module.load_state_dict(weights | {k: v for k, v in module.state_dict().items() if "fc." in k})
    last, module.fc = module.fc, torch.nn.Identity()
    with torch.no_grad():
        features = module.eval()(torch.tensor(normalized, dtype=torch.float32).permute(0, 3, 1, 2))
    optimizer = torch.optim.Adam(last.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(last(features), labels).backward()
        optimizer.step()
    module.fc = last
    torch.save({"state_dict": module.state_dict()}, checkpoint)


def main() -> None:
    """The command line; see the top of this file."""
    parser = options_of(__doc__, "tuned")
    parser.add_argument("--network", default="mini_resnext", help="the architecture (mini_resnext)")
    parser.add_argument("--checkpoint", type=Path, help="PyTorch's file (one that is made here)")
    parser.add_argument("--classes", type=Path, help="its classes' names, one a line")
    parser.add_argument("--images", type=Path, help="photographs (drawn scenes)")
    options = parser.parse_args()
    out, checkpoint, classes = options.out, options.checkpoint, options.classes
    images = options.images or draw_photographs(out / "photographs", options.count, CLASSES)
    if checkpoint is None:
        checkpoint, classes = out / "tuned.pth", out / "classes.txt"
        classes.write_text("\n".join(CLASSES))
        fine_tune(options.network, images, checkpoint)

    # 1. PyTorch's file becomes a checkpoint, in a folder that every --model takes.
    network = out / "network"
    how = ("--weights", checkpoint, "--out", network, "--force")
    names = () if classes is None else ("--classes", classes)
    gcpatch("convert", options.network, *how, *names)

    # 2. Both networks side by side, stage by stage; the certificate is JSON, and a page beside it.
    few = ("--images", images, "--limit", 2, "--steps", 0)
    gcpatch("verify", network, *few, "--out", out / "certificate.json")

    # 3. Why it says what it says.
    gcpatch("explain", images, "--model", network, "--out", out / "maps", "--resume")


if __name__ == "__main__":
    main()
