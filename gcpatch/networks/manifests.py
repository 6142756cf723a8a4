"""What a checkpoint says of itself: whose parameters, where they come from, what they hash to."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from gcpatch.errors import UserError
from gcpatch.networks import Network, Preprocessing, parameters

FORMAT = 2
FILE = "manifest.json"
FIELDS = {
    "format": int,
    "name": str,
    "network": str,
    "options": dict,
    "source": str,
    "digest": str,
    "parameters": int,
    "target_layer": str,
    "categories": list,
    "mean": list,
    "std": list,
    "size": int,
    "resize": int,
    "interpolation": str,
    "versions": dict,
    "files": dict,
}
FIRST = {"options": {}, "size": 224, "resize": 256, "interpolation": "bilinear"}  # in format 1
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


def identity(network: Network) -> dict[str, Any]:
    """What makes a network the one it is, beside its parameters, as a manifest has it."""
    return {
        "network": network.architecture,
        "options": network.options,
        "target_layer": network.target_layer,
        "categories": list(network.categories),
        **json.loads(json.dumps(asdict(network.preprocessing))),
    }


def digest_of(network: Network, values: Mapping[str, Any]) -> str:
    """The SHA-256 of a network: its `identity` as sorted JSON, and its parameters' `digest`."""
    known = json.dumps(identity(network), sort_keys=True)
    return hashlib.sha256(f"{known}\n{digest(values)}".encode()).hexdigest()


def preprocessing_of(manifest: Mapping[str, Any]) -> Preprocessing:
    """What a manifest says of preprocessing; UserError where a value is out of range."""
    values = {field.name: manifest[field.name] for field in fields(Preprocessing)}
    return Preprocessing(
        **values | {key: tuple(map(float, values[key])) for key in ("mean", "std")}
    )


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
        "name": network.name,
        **identity(network),
        "source": source,
        "digest": digest_of(network, parameters(network)),
        "parameters": sum(leaf.size for leaf in trained),
        "versions": {package: version(package) for package in PACKAGES} | dict(versions or {}),
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in a checkpoint's folder, with all its `FIELDS`.

    One of format 1 gets those that it lacks: what was the same for all networks then.

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
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    manifest = manifest if isinstance(manifest, dict) else {}
    if isinstance(found := manifest.get("format"), int) and found > FORMAT:
        raise CheckpointError(
            f"{folder} has format {found}, this gcpatch reads up to {FORMAT}: install a newer one"
        )
    if found == 1:
        manifest = FIRST | {"name": manifest.get("network")} | manifest
    for field, kind in FIELDS.items():
        if not isinstance(manifest.get(field), kind):
            raise CheckpointError(f"{path} is broken: it has no {field!r} ({kind.__name__})")
    return manifest


def version(package: str) -> str:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
