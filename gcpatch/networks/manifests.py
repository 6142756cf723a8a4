"""What a checkpoint says of itself: whose parameters, where they come from, what they hash to."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from gcpatch.errors import UserError
from gcpatch.networks import Network, parameters

FORMAT = 1
FILE = "manifest.json"
FIELDS = {
    "format": int,
    "network": str,
    "source": str,
    "digest": str,
    "parameters": int,
    "target_layer": str,
    "categories": list,
    "mean": list,
    "std": list,
    "versions": dict,
    "files": dict,
}
PACKAGES = ("gcpatch", "jax", "flax", "orbax-checkpoint")


class CheckpointError(UserError):
    """A checkpoint that cannot be read or written; the message is one sentence that says why."""


def digest(values: Mapping[str, Any]) -> str:
    """The SHA-256 of arrays by key: keys, types, shapes and bytes, in the order of the keys."""
    total = hashlib.sha256()
    for key in sorted(values):
        array = np.asarray(values[key], order="C")
        total.update(f"{key} {array.dtype.name} {array.shape}\n".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def hash_files(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder, by path."""
    hashes = {}
    for path in sorted(path for path in folder.glob("**/*") if path.is_file()):
        with path.open("rb") as file:
            key = path.relative_to(folder).as_posix()
            hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Compares the files below a folder with a manifest, before Orbax trips over them.

    Raises:
        CheckpointError: a file is missing, altered or one too many.
    """
    found, wanted = hash_files(folder), manifest["files"]
    changed = [path for path in {**wanted, **found} if found.get(path) != wanted.get(path)]
    if changed:
        raise CheckpointError(
            f"{folder} is damaged ({', '.join(changed[:3])} missing, extra or altered): "
            f"run `gcpatch convert {manifest['network']}` again"
        )


def describe(
    network: Network, source: str, versions: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A network's manifest, less the hashes of the files that it is written to.

    Args:
        network: a network with weights.
        source: where they come from, such as "torchvision IMAGENET1K_V1" or "random seed 0".
        versions: of further packages that had a part in them, such as torch.
    """
    trained = jax.tree.leaves(nnx.state(network, nnx.Param))
    return {
        "format": FORMAT,
        "network": network.name,
        "source": source,
        "digest": digest(parameters(network)),
        "parameters": sum(leaf.size for leaf in trained),
        "target_layer": network.target_layer,
        "categories": list(network.categories),
        "mean": list(network.mean),
        "std": list(network.std),
        "versions": {package: _version(package) for package in PACKAGES} | dict(versions or {}),
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in a checkpoint's folder, with all its `FIELDS`.

    Raises:
        CheckpointError: there is none, it is broken, or a newer gcpatch wrote it.
    """
    path = folder / FILE
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a checkpoint's folder; `gcpatch convert NAME --weights FILE.pth` "
            "makes one of PyTorch's weights"
        )
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {FILE}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    manifest = manifest if isinstance(manifest, dict) else {}
    if isinstance(found := manifest.get("format"), int) and found > FORMAT:
        raise CheckpointError(
            f"{folder} has format {found}, this gcpatch reads up to {FORMAT}: install a newer one"
        )
    for field, kind in FIELDS.items():
        if not isinstance(manifest.get(field), kind):
            raise CheckpointError(f"{path} is broken: it has no {field!r} ({kind.__name__})")
    return manifest


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
