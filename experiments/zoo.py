"""Every classifier of torchvision and some of timm, converted through their graphs, against torch.

    python -m experiments.zoo --images photos --out experiments/results/zoo.md

Random weights with random statistics, in float64: the relative errors of the logits and of Grad-CAM
of the top class, at the target layer or at the last module before it. Networks with attention are
listed with the sentence that refuses them. With `--images`, also on how many of these both have
the same top class in float32. Nothing is downloaded.
"""

import argparse
import gc
import math
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from convert import ConvertError
from convert.operators import torch, torchvision
from convert.tracing.graph import build, from_module
from gcpatch.data.images import read_image
from gcpatch.explainers.cam import grad_cam
from gcpatch.networks import Graph, Preprocessing, fill, parameters

SIDE, FULL_SIDE = 96, 224  # pixels; attention needs the side that it was made for
SIDES = {"inception_v3": 128}
WITH_ATTENTION = ("vit", "swin", "maxvit")
TIMM = (
    "convnextv2_atto",
    "dla34",
    "efficientnet_lite0",
    "ghostnet_100",
    "hrnet_w18_small",
    "mixnet_s",
    "nfnet_f0",
    "regnety_002",
    "resnest14d",
    "seresnet18",
    "tf_efficientnetv2_b0",
    "xception41",
    "vit_tiny_patch16_224",
)
HEAD = """# Classifiers through their graphs

`python -m experiments.zoo`, random weights, float64 on a CPU, {side} pixels (inception_v3 at 128,
attention at 224). Errors are relative to torch's norm. Grad-CAM is of the top class, at the layer
named. Top-1 is in float32, on photographs.

| network | nodes | seconds to convert | layer | logits | Grad-CAM | top-1 |
|---|---:|---:|---|---:|---:|---:|
"""


class Row(NamedTuple):
    """A network beside torch's."""

    name: str
    nodes: int
    seconds: float
    layer: str
    logits: float
    heat: float
    agreed: str

    def line(self) -> str:
        """As a row of the table."""
        errors = f"{self.logits:.1e} | {self.heat:.1e}"
        cells = (self.name, self.nodes, f"{self.seconds:.1f}", self.layer, errors, self.agreed)
        return f"| {' | '.join(map(str, cells))} |"


def specs() -> list[str]:
    """All networks that are tried."""
    ours = torchvision.models.list_models(module=torchvision.models)
    return [f"torchvision:{name}" for name in ours] + [f"timm:{name}" for name in TIMM]


def scatter(module: Any, seed: int) -> None:
    """Random weights in place of a module's that keep its values in range and tell mistakes."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if not value.is_floating_point():
                continue
            noise = torch.randn_like(value)
            word = name.rpartition(".")[2]
            if word == "running_var":
                value.copy_(torch.exp(0.2 * noise))
            elif word == "running_mean" or word == "bias":
                value.copy_(0.1 * noise)
            elif value.ndim >= 2 and value[0].numel() > 1 and value.shape[0] > 1:
                value.copy_(noise * math.sqrt(2 / value[0].numel()))
            else:  # a scale
                value.copy_(0.5 + 0.1 * noise)


def torch_side(module: Any, layer: str, inputs: Any) -> tuple[np.ndarray, int, np.ndarray]:
    """torch's logits, top class, and Grad-CAM at a module by its own autograd."""
    kept = {}

    def keep(_module, _inputs, output):
        kept["map"] = output
        return output.clone()  # what comes may be in place

    handle = module.get_submodule(layer).register_forward_hook(keep)
    logits = module(inputs)
    handle.remove()
    label = int(logits[0].argmax())
    (gradient,) = torch.autograd.grad(logits[0, label], kept["map"])
    weights = gradient.mean((2, 3), keepdim=True)
    heat = torch.relu((weights * kept["map"]).sum(1))[0]
    return logits[0].detach().numpy(), label, heat.detach().numpy()


def hooked(network: Graph, module: Any) -> tuple[str, str]:
    """The node nearest to the target layer that is a module's output, and that module."""
    modules = [name for name, _ in module.named_modules() if name]
    cuts = list(network.stages())
    for cut in reversed(cuts[: 1 + cuts.index(network.target_layer)]):
        prefixes = [cut.rsplit(".", i)[0] for i in range(cut.count(".") + 1)]
        for prefix in prefixes:
            if prefix in modules and network.resolve(prefix) == cut:
                return cut, prefix
    raise ConvertError(f"{network.name} has no module to compare with")


def agreement(network: Graph, module: Any, files: Sequence[Path]) -> str:
    """On how many images both have the same top class in float32."""
    if not files:
        return "-"
    side = network.preprocessing.size
    images = np.stack([read_image(file, side) for file in files]).astype(np.float32) / 255
    values = {key: np.asarray(value, np.float32) for key, value in parameters(network).items()}
    single = fill(network, values)
    ours = jax.jit(lambda network, images: network(images))(single, images)
    inputs = np.asarray(network.normalize(images)).transpose(0, 3, 1, 2)
    with torch.no_grad():
        theirs = module.float()(torch.from_numpy(np.ascontiguousarray(inputs)))
    same = np.asarray(ours).argmax(-1) == theirs.argmax(-1).numpy()
    return f"{same.sum()} of {len(files)}"


def compare(spec: str, files: Sequence[Path]) -> Row:
    """Converts a network and computes the errors; ConvertError where it is refused."""
    name = spec.partition(":")[2]
    side = FULL_SIDE if name.startswith(WITH_ATTENTION) else SIDES.get(name, SIDE)
    module = build(spec).double().requires_grad_(False)
    scatter(module, zlib.crc32(spec.encode()))
    begin = time.perf_counter()
    network = from_module(module, name, preprocessing=Preprocessing(size=side, resize=side))
    seconds = time.perf_counter() - begin
    image = np.random.default_rng(0).random((side, side, 3))
    inputs = torch.tensor(np.asarray(network.normalize(image)).transpose(2, 0, 1)[None])
    layer, hook = hooked(network, module)
    logits, label, heat = torch_side(module, hook, inputs.requires_grad_())
    ours = jax.jit(lambda network, image: network(image))(network, image)
    map_ = jax.jit(lambda network, image: grad_cam(network, image, label, layer=layer))(
        network, image
    )
    nodes = len(network.describe()["nodes"])
    errors = _error(ours, logits), _error(map_, heat)
    return Row(spec, nodes, seconds, layer, *errors, agreement(network, module, files))


def _error(ours: Any, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(ours) - theirs) / np.linalg.norm(theirs))


def lines(chosen: list[str], files: Sequence[Path]) -> Iterator[str]:
    """The table's rows, one network in memory at a time."""
    for spec in chosen:
        try:
            yield compare(spec, files).line()
        except ConvertError as error:
            yield f"| {spec} | | | refused: {error} | | | |"
        jax.clear_caches()
        gc.collect()


def main() -> None:
    """Writes the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the table's file")
    parser.add_argument("--only", nargs="+", metavar="SPEC", help="some networks instead of all")
    parser.add_argument("--images", type=Path, metavar="DIR", help="photographs, for top-1")
    options = parser.parse_args()
    files = sorted(options.images.iterdir()) if options.images else []
    jax.config.update("jax_enable_x64", True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w") as file:
        file.write(HEAD.format(side=SIDE))
        for line in lines(options.only or specs(), files):
            print(line, flush=True)
            file.write(f"{line}\n")
            file.flush()


if __name__ == "__main__":
    main()
