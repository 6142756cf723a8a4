"""Networks with their weights: Orbax checkpoints with a manifest, and the minis in the package.

A checkpoint is a folder of two: `parameters/`, which Orbax writes, and `manifest.json`, which says
whose parameters they are, where they come from and what they hash to.
"""

import importlib.resources
import json
import textwrap
import zipfile
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np

from gcpatch.errors import UserError
from gcpatch.files import atomic_directory, make_folder
from gcpatch.files import home as home
from gcpatch.networks import NAMES, Network, create, fill, manifests, parameters, random
from gcpatch.networks.manifests import CheckpointError as CheckpointError

ARRAYS = "parameters"


def load(name: str, weights: str | Path | None = None, seed: int = 0) -> Network:
    """A network with weights, ready to use.

    Args:
        name: one of `gcpatch.networks.NAMES`, an alias that was converted, or a checkpoint's
            folder.
        weights: a checkpoint's folder; "random" for seeded random weights; None for what was
            converted into `home()`, or else for the weights that come with the package.
        seed: of the random weights.

    Raises:
        UserError: there is no network of this name.
        CheckpointError: there are no such weights, or they are not whole.
    """
    if weights == "random":
        return random(name, seed)
    if weights is not None:
        return read(weights, name)
    if folder := found(name):
        return read(folder, None if is_folder(name) else name)
    if name not in NAMES:
        raise UserError(_unknown(name))
    if (packaged := _packaged(name)).is_file():
        return _unpack(name, packaged)
    raise CheckpointError(
        f"{name} is not converted yet: run `gcpatch convert {name}` (downloads torchvision's "
        f"weights) or `gcpatch convert {name} --weights FILE.pth`; `--weights random` works "
        "without weights"
    )


def found(name: str) -> Path | None:
    """The folder of a converted network by its name or alias, or the folder that `name` is."""
    plain = Path(name).name == name
    if plain and (folder := home() / name).exists():
        return folder
    return Path(name).expanduser() if is_folder(name) else None


def is_folder(name: str) -> bool:
    """Whether a network's name is the path of a checkpoint's folder instead."""
    known = name in NAMES or (home() / name).exists()
    return Path(name).name != name or (not known and Path(name, manifests.FILE).is_file())


def _unknown(name: str) -> str:
    names = ", ".join(dict.fromkeys((*NAMES, *installed())))
    return f"there is no network {name!r}; choose one of {names}, or a checkpoint's folder"


def installed() -> dict[str, dict[str, Any]]:
    """The manifests of the checkpoints in `home()` by name or alias; broken ones are left out."""
    manifest_of = {}
    for folder in sorted(home().glob("*")):
        try:
            manifest = manifests.read_manifest(folder)
        except CheckpointError:
            continue
        if manifest["name"] == folder.name:
            manifest_of[folder.name] = manifest
    return manifest_of


def bundled() -> dict[str, dict[str, Any]]:
    """The manifests, made up on the spot, of the weights that come with the package."""
    files = {name: _packaged(name) for name in NAMES}
    networks = {name: _unpack(name, file) for name, file in files.items() if file.is_file()}
    return {name: manifests.describe(network, "scenes") for name, network in networks.items()}


def digest(network: Network) -> str:
    """The SHA-256 of a network: of its parameters, preprocessing, categories and target layer."""
    return manifests.digest_of(network, parameters(network))


def save(
    network: Network, folder: str | Path, source: str, versions: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Writes a checkpoint, all of it or nothing, and returns its manifest.

    For `source` and `versions` see `manifests.describe`.

    Raises:
        CheckpointError: the folder cannot be written, or holds something else than a checkpoint.
    """
    import orbax.checkpoint as ocp  # here, because the weights in the package need no Orbax

    folder = Path(folder).expanduser().resolve()
    try:
        _check_replaceable(folder)
        manifest = manifests.describe(network, source, versions)
        arrays = {key: np.asarray(value) for key, value in parameters(network).items()}
        make_folder(folder.parent)
        with atomic_directory(folder) as draft:
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(draft / ARRAYS, arrays)
                checkpointer.wait_until_finished()
            manifest["files"] = manifests.hash_files(draft / ARRAYS)
            (draft / manifests.FILE).write_text(json.dumps(manifest, indent=1), "utf-8")
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error}") from error
    return manifest


def check_same(network: Network, folder: Path) -> None:
    """Raises CheckpointError where a folder holds a checkpoint of another digest."""
    try:
        there = manifests.read_manifest(folder.expanduser())
    except CheckpointError:
        return  # `save` says what is wrong with it
    if there["digest"] != digest(network):
        raise CheckpointError(
            f"{there['name']} is converted already, from {there['source']} into {folder}: --force "
            "replaces it, --name ALIAS keeps both"
        )


def _check_replaceable(folder: Path) -> None:
    """Raises CheckpointError where saving would delete what is no checkpoint of ours."""
    found = sorted(path.name for path in folder.glob("*"))
    if folder.is_file() or found not in ([], [manifests.FILE, ARRAYS]):
        raise CheckpointError(f"{folder} is in use and no checkpoint: choose another folder")
    if found:
        manifests.read_manifest(folder)


def read(folder: str | Path, name: str | None = None) -> Network:
    """The network in a checkpoint, after comparing every parameter with the manifest.

    Args:
        folder: what `save` wrote.
        name: the network, or its alias, that it should be; any if None.

    Raises:
        CheckpointError: it is no checkpoint, another network's, a newer gcpatch's, incomplete or
            altered.
    """
    folder = Path(folder).expanduser().resolve()
    manifest = manifests.read_manifest(folder)
    if name not in (None, manifest["name"], manifest["network"]):
        raise CheckpointError(f"{folder} holds {manifest['name']} and not {name}")
    manifests.check_files(folder / ARRAYS, manifest)
    arrays = _restore(folder)
    try:
        network = create(
            manifest["network"],
            tuple(manifest["categories"]),
            manifests.preprocessing_of(manifest),
            manifest["options"],
        )
        network.name = manifest["name"]
        network.target_layer = manifest["target_layer"]
        network.resolve()  # raises where there is no such layer
        network = fill(network, arrays)
    except (TypeError, ValueError) as error:
        reason = textwrap.shorten(str(error), 1000, placeholder=" ...")
        raise CheckpointError(f"{folder} does not fit this version: {reason}") from error
    first = manifest["format"] == 1
    known = manifests.digest(arrays) if first else manifests.digest_of(network, arrays)
    if known != manifest["digest"]:
        raise CheckpointError(
            f"{folder} is damaged: its parameters or settings are not those of its digest"
        )
    return network


def _restore(folder: Path) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    try:
        with ocp.StandardCheckpointer() as checkpointer:
            arrays = checkpointer.restore(folder / ARRAYS)
        return {key: np.asarray(arrays[key]) for key in arrays}
    except Exception as error:  # Orbax raises what its many parts happen to run into
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")
        raise CheckpointError(f"{folder / ARRAYS} is damaged or incomplete ({reason})") from error


def _packaged(name: str) -> Traversable:
    return importlib.resources.files("gcpatch.networks") / "weights" / f"{name}.npz"


def _unpack(name: str, file: Traversable) -> Network:
    """A mini from its `.npz`, float16 by dotted path."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            values = {key: archive[key].astype(np.float32) for key in archive}
        return fill(create(name), values)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise CheckpointError(f"{file} is damaged ({reason}): install gcpatch again") from error
