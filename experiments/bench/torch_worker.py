"""PyTorch's part of `experiments.bench.accelerator`, in a process of its own.

It answers each task with a line of JSON. A task's preparation (weights, `torch.compile`) runs while
the other process computes; then it says `ready` and waits for `go`, so that only one of the two is
timed at a time. JAX, which builds the networks, has the CPU alone here.
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from convert import reference
from convert.batched import Batched, halves
from convert.checking.twins import torch_input
from convert.operators import torch
from convert.torchvision import to_torch, twin_of
from gcpatch.attacks.regions import Patch
from gcpatch.evaluation.bench import clock, images_for, side_of
from gcpatch.networks import PAPER, Network, checkpoints, random

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = ("float64", "float32", "tf32", "bfloat16")


@cache
def network_of(name: str) -> Network:
    """A full-size network with random weights, a bundled mini, or a checkpoint's folder."""
    return random(name) if name in PAPER else checkpoints.load(name)


@cache
def _weights(name: str) -> dict[str, Any]:
    return to_torch(network_of(name))


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def pace(task: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """A batched step, prepared and run once; what it returns times it."""
    network, start = network_of(task["network"]), time.perf_counter()
    _allow_tf32(task["precision"] != "highest")
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    side = side_of(network)
    attack = Batched(
        network,
        _weights(task["network"]),
        images_for(task["batch"], side),
        [i % len(network.categories) for i in range(task["batch"])],
        Patch(task["side"]).corner(side, side),
        task["side"],
        device=DEVICE,
        compiled=task["compiled"],
        channels_last=True,
        precision=task["precision"],
    )

    def run() -> None:
        for _ in range(task["count"]):
            attack.step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    run()
    seconds = time.perf_counter() - start

    def measure() -> dict[str, Any]:
        timing = clock(run, task["repeats"], task["count"])
        peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None
        return {
            "image_steps_per_second": task["batch"] / timing.step,
            "seconds_per_step": timing.step,
            "spread": timing.spread,
            "compile_seconds": seconds,
            "peak_memory_bytes": peak,
        }

    return measure


def values(task: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """What parity compares, in each kind of number, written to the file that the task names."""
    network, given = network_of(task["network"]), np.load(task["inputs"])

    def measure() -> dict[str, Any]:
        files = {}
        for kind in KINDS:
            _allow_tf32(kind in ("tf32", "bfloat16"))
            files[kind] = f"{task['inputs']}.{kind}.npz"
            found = _values(network, _weights(task["network"]), given, kind)
            np.savez(files[kind], **found)  # type: ignore[arg-type]
        return {"files": files}

    return measure


def _values(network: Network, weights: Any, given: Any, kind: str) -> dict[str, np.ndarray]:
    dtype = torch.float64 if kind == "float64" else torch.float32
    with torch.device("meta"):  # no time for random weights that nobody needs
        model = twin_of(network)
    model.load_state_dict(weights, assign=True)
    model = model.to(DEVICE, dtype).eval().requires_grad_(False)
    trunk, head = halves(model)
    images, tiles = (np.asarray(given[name], np.float64) for name in ("images", "tiles"))
    pixels = torch_input(network, images).to(DEVICE, dtype)
    noise = torch_input(network, tiles).to(DEVICE, dtype).requires_grad_()
    targets = torch.from_numpy(given["targets"]).long().to(DEVICE)[:, None]
    (row, column), size, side = given["corner"].tolist(), tiles.shape[1], images.shape[1]
    window = (..., slice(row, row + size), slice(column, column + size))
    found: dict[str, list[Any]] = {}
    for part in torch.arange(len(images)).split(16):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=kind == "bfloat16"):
            image = pixels[part].clone()
            image[window] = noise[part]
            activations = trunk(image)
            logits = head(activations)
            chosen = logits.gather(1, targets[part])
            (slope,) = torch.autograd.grad(chosen.sum(), activations, retain_graph=True)
        activations, logits = activations.to(dtype), logits.to(dtype)
        heat = torch.relu((slope.to(dtype).mean((2, 3), keepdim=True) * activations).sum(1))
        covered: Any = reference.coverage(heat.shape[1:], (side, side), (row, column), size)
        covered = covered.to(DEVICE, dtype)
        loss = (heat * covered).sum((1, 2)) / covered.sum()
        odds = logits.softmax(1).gather(1, targets[part])[:, 0]
        loss = loss - 0.05 * odds.log() * (odds < 0.9)
        (gradient,) = torch.autograd.grad(loss.sum(), noise)
        std = torch.tensor(network.std, device=DEVICE, dtype=dtype)[:, None, None]
        for name, value in (
            ("logits", logits),
            ("activations", activations.permute(0, 2, 3, 1)),
            ("grad_cam", heat),
            ("gradient", (gradient[part] / std).permute(0, 2, 3, 1)),
        ):
            found.setdefault(name, []).append(value.detach().double().cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def main() -> None:
    """Takes the tasks from a file, one line of JSON for each."""
    for line in Path(sys.argv[1]).read_text().splitlines():
        task = json.loads(line)
        try:
            measure = {"pace": pace, "values": values}[task["kind"]](task)
            print(json.dumps({"ready": task}), flush=True)
            if not sys.stdin.readline():
                return
            answer = measure()
            del measure
            if DEVICE == "cuda":  # the other process needs the memory
                gc.collect()
                torch.cuda.empty_cache()
        except Exception as error:  # one row's error is no other's
            answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        print(json.dumps({"row": task | answer}), flush=True)


if __name__ == "__main__":
    main()
