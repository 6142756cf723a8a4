"""Maps of many scenes by gcpatch.explain, pytorch-grad-cam and captum: time, memory, difference.

    python -m experiments.bench.explain --out experiments/results/explain

Every library explains the same scenes, `--batch` at a time, by the same network, converted to
PyTorch, each in a process of its own, one after another; the first batch, in which programs are
compiled, is timed apart. A row is the seconds for all scenes, the most memory that the process grew
by once network and libraries were loaded, and how far the maps are from gcpatch's: the largest
difference over the largest value. PyTorch gets the faster of both layouts of memory, by a batch of
each. pytorch-grad-cam gives maps of the image's size, scaled to [0, 1], which is part of its time;
for the difference gcpatch's are made so too. It has no `input-gradient`.
"""

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

METHODS = ("grad-cam", "input-gradient")
LIBRARIES = ("gcpatch", "pytorch-grad-cam", "captum")
HEAD = (
    "network",
    "method",
    "library",
    "scenes/s",
    "seconds",
    "first batch",
    "memory",
    "difference",
)
SEED, DRAWN = 11, 64  # of the scenes; how many are drawn at a time

Explain = Callable[[np.ndarray, np.ndarray], np.ndarray]  # images, labels -> maps


def draw_scenes(path: Path, count: int, side: int) -> None:
    """Writes scenes as 8-bit images `[n, side, side, 3]`."""
    from gcpatch.data import scenes

    kept = np.lib.format.open_memmap(path, "w+", np.uint8, (count, side, side, 3))
    for start in range(0, count, DRAWN):
        drawn = scenes.draw_batch(SEED, min(DRAWN, count - start), size=side, start=start)
        kept[start : start + DRAWN] = np.rint(255 * np.asarray(drawn.image))


def batches(path: Path, batch: int, classes: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images as floats, and a class for each: of scene i the class i modulo their number."""
    kept = np.load(path, mmap_mode="r")
    for start in range(0, len(kept), batch):
        part = kept[start : start + batch]
        yield part.astype(np.float32) / 255, (start + np.arange(len(part))) % classes


def of_gcpatch(network: Any, method: str, batch: int) -> Explain:
    """`gcpatch.explain`."""
    import gcpatch

    return lambda images, labels: gcpatch.explain(network, images, labels, method, batch=batch)


def in_torch(network: Any, layout: Any) -> tuple[Any, Any, Callable[[np.ndarray], Any]]:
    """The network in PyTorch, on pixels in [0, 1]; its target layer; and what makes its input."""
    from convert.operators import torch
    from convert.torchvision import to_torch, twin_of

    model = twin_of(network)
    model.load_state_dict(to_torch(network))
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False  # captum and pytorch-grad-cam read what it would overwrite
    mean, std = torch.tensor([network.mean, network.std])[:, :, None, None]

    class Pixels(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Any) -> Any:
            return self.model((images - mean) / std)

    layer = model.features[-2] if hasattr(model, "features") else model.layer4[-1]
    whole = Pixels().eval().to(memory_format=layout)

    def tensor(images: np.ndarray) -> Any:
        found = torch.from_numpy(images).permute(0, 3, 1, 2)
        return found.contiguous(memory_format=layout).requires_grad_()

    return whole, layer, tensor


def of_pytorch_grad_cam(network: Any, method: str, layout: Any) -> Explain:
    """`pytorch_grad_cam.GradCAM`."""
    model, layer, tensor = in_torch(network, layout)
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    explain = pytorch_grad_cam.GradCAM(model, [layer])
    return lambda images, labels: explain(
        tensor(images), [ClassifierOutputTarget(label) for label in labels]
    )


def of_captum(network: Any, method: str, layout: Any) -> Explain:
    """`captum.attr.LayerGradCam`, or `Saliency`, the largest of the colours."""
    model, layer, tensor = in_torch(network, layout)
    from captum import attr

    from convert.operators import torch

    if method == "input-gradient":
        saliency = attr.Saliency(model)
        return lambda images, labels: (
            saliency.attribute(tensor(images), torch.from_numpy(labels)).amax(1).numpy()
        )
    cam = attr.LayerGradCam(model, layer)
    return lambda images, labels: (
        cam.attribute(tensor(images), torch.from_numpy(labels), relu_attributions=True)
        .detach()[:, 0]
        .numpy()
    )


def explainers(library: str, network: Any, method: str, batch: int) -> list[Explain]:
    """The ways in which a library may explain, of which the fastest counts."""
    if library == "gcpatch":
        return [of_gcpatch(network, method, batch)]
    from convert.operators import torch

    make = {"pytorch-grad-cam": of_pytorch_grad_cam, "captum": of_captum}[library]
    layouts = (torch.contiguous_format, torch.channels_last)
    return [make(network, method, layout) for layout in layouts]


def measure(library: str, name: str, method: str, scenes: Path, batch: int, out: Path) -> Any:
    """A row; its maps go to `out`."""
    warnings.simplefilter("ignore")  # captum says that it sets hooks
    from gcpatch.evaluation.bench import Peak
    from gcpatch.networks import checkpoints

    network = checkpoints.load(name)
    ways = explainers(library, network, method, batch)
    memory, start = Peak(), time.perf_counter()
    images, labels = next(batches(scenes, batch, len(network.categories)))
    found = [explain(images, labels) for explain in ways]
    first = time.perf_counter() - start
    if len(ways) > 1:
        ways.sort(key=lambda explain: _seconds(explain, images, labels))
    maps, seconds = [], 0.0
    for images, labels in batches(scenes, batch, len(network.categories)):
        start = time.perf_counter()
        maps.append(ways[0](images, labels))
        seconds += time.perf_counter() - start
    peak = memory.peak() - sum(one.nbytes for one in maps)
    np.save(out, np.concatenate(maps))
    return {
        "network": name,
        "method": method,
        "library": library,
        "scenes": sum(map(len, maps)),
        "batch": batch,
        "seconds": seconds,
        "first_seconds": first / len(found),
        "peak_memory_bytes": max(peak, 0),
    }


def _seconds(explain: Explain, images: np.ndarray, labels: np.ndarray) -> float:
    start = time.perf_counter()
    explain(images, labels)
    return time.perf_counter() - start


def libraries_with(method: str) -> list[str]:
    """The libraries that have a method."""
    return [name for name in LIBRARIES if (name, method) != ("pytorch-grad-cam", "input-gradient")]


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two stacks of maps, over the largest value; see the top."""
    import cv2

    if ours.shape != theirs.shape:
        ours = _scaled(np.stack([cv2.resize(one, theirs.shape[:0:-1]) for one in _scaled(ours)]))
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _scaled(maps: np.ndarray) -> np.ndarray:
    """Each map from 0 to 1, as pytorch-grad-cam scales it, before it is resized and after."""
    above = maps - maps.min((1, 2), keepdims=True)
    return above / (1e-7 + above.max((1, 2), keepdims=True))


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as Markdown."""
    lines = [HEAD, ("---",) * len(HEAD)]
    for row in rows:
        apart = row["difference"]
        lines.append(
            (
                f"`{row['network']}`",
                row["method"],
                row["library"],
                f"{row['scenes'] / row['seconds']:.1f}",
                f"{row['seconds']:.1f}",
                f"{row['first_seconds']:.1f}",
                f"{row['peak_memory_bytes'] / 1e6:.0f} MB",
                "-" if apart is None else f"{apart:.0e}",
            )
        )
    return ["| " + " | ".join(line) + " |" for line in lines]


def main() -> None:
    """The command line; see the top of this file."""
    from gcpatch.evaluation import bench
    from gcpatch.networks import MINIS, checkpoints

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default=",".join(MINIS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=16, help="scenes at a time (16)")
    parser.add_argument("--out", type=Path, default=Path("runs/explain"), help="without an ending")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"machine": bench.machine(), "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks.split(","):
            scenes = Path(folder, "scenes.npy")
            draw_scenes(scenes, options.scenes, checkpoints.load(name).preprocessing.size)
            for method in options.methods.split(","):
                for library in libraries_with(method):
                    maps = Path(folder, f"{library}.npy")
                    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                        row = pool.submit(
                            measure, library, name, method, scenes, options.batch, maps
                        ).result()
                    ours = np.load(Path(folder, "gcpatch.npy"))
                    apart = None if library == "gcpatch" else difference(ours, np.load(maps))
                    document["rows"].append(row | {"difference": apart})
                    options.out.with_suffix(".json").write_text(
                        json.dumps(document, indent=1) + os.linesep, "utf-8"
                    )
    lines = "\n".join(table(document["rows"]))
    options.out.with_suffix(".md").write_text(lines + "\n", "utf-8")
    print(lines)


if __name__ == "__main__":
    main()
