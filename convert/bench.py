"""How fast PyTorch attacks on this machine: the plain reference, and the fast batched version."""

import importlib.metadata
from collections.abc import Callable
from functools import partial
from typing import Any

from convert import reference
from convert.batched import Batched
from convert.checking.comparison import classifier, tensor
from convert.operators import torch
from convert.torchvision import to_torch
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.evaluation.bench import Peak, Row, clock, images_for, side_of
from gcpatch.networks import Network

VARIANTS = ("torch-single", "torch-batched")


def measure(
    network: Network,
    size: int,
    batch: int,
    variant: str,
    repeats: int = 5,
    precision: str = "float32",
) -> Row:
    """Times PyTorch on what `gcpatch.bench.measure` times; `torch-single` is one image at a time.

    `torch-batched` is the fastest of its settings: eager or compiled, either layout of memory.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "float32"
    memory = Memory()
    best = None
    for make in _candidates(network, size, batch, variant, device, precision):
        step = make()

        def run(step=step) -> None:
            step()
            if device == "cuda":
                torch.cuda.synchronize()

        timing = clock(run, repeats)
        if best is None or timing.step < best.step:
            best = timing
    assert best is not None
    count = 1 if variant == "torch-single" else batch
    return Row(
        network.name,
        size,
        count,
        variant,
        count / best.step,
        best.step,
        best.spread,
        memory.peak(),
        max(best.first - best.step, 0.0),
    )


def _candidates(network, size, batch, variant, device, precision) -> list[Callable[[], Any]]:
    """What makes a step, for each way of computing it."""
    side = side_of(network)
    corner = Patch(size).corner(side, side)
    if variant == "torch-single":
        return [partial(_single, network, size, corner, device)]

    def batched(compiled: bool, channels_last: bool) -> Any:
        return Batched(
            network,
            to_torch(network),
            images_for(batch, side),
            [i % len(network.categories) for i in range(batch)],
            corner,
            size,
            device=device,
            compiled=compiled,
            channels_last=channels_last,
            precision=precision,
        ).step

    return [partial(batched, *choice) for choice in ((False, True), (True, False), (True, True))]


def _single(network: Network, size: int, corner: tuple[int, int], device: str) -> Callable[[], Any]:
    """The reference on one image, with the full second-order path."""
    how = Attack()
    settings = reference.Settings(
        "hide", "adam", how.rate, 1, size, corner, ce_weight=how.ce_weight, balance=how.balance
    )
    with torch.device(device):
        model = classifier(network, to_torch(network))
        (pixels,) = images_for(1, side_of(network))
        image, noise = tensor(pixels).to(device), torch.zeros(3, size, size)

    def step() -> None:
        with torch.device(device):
            reference.attack(model, image, noise, 1, settings)

    return step


class Memory(Peak):
    """As `Peak`, but on a GPU PyTorch's."""

    def __init__(self) -> None:
        super().__init__()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """In bytes."""
        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else super().peak()


def versions() -> dict[str, str]:
    """PyTorch's versions and threads."""
    return {
        "torch": importlib.metadata.version("torch"),
        "torch_threads": str(torch.get_num_threads()),
    }
