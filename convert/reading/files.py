"""Reads the files that people keep weights in, without running code in them.

What a file of torch.save holds beside tensors and plain values is a `LeftOut` afterwards: its class
is named and never looked up.
"""

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

from convert import ConvertError
from convert.operators import torch

SAVE = "save the weights alone, torch.save(model.state_dict(), FILE)"
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save's before archives
PICKLE = b"\x80"


class LeftOut:
    """What stands for an object that only its own code could make; it takes all and does nothing.

    Attributes:
        kind: the class's dotted name, of a subclass.
    """

    kind = ""

    def __new__(cls, *_: Any, **__: Any):
        """Made of anything."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, _: Any):
        pass


def read(path: Path) -> Any:
    """What a file holds: nested dictionaries and lists of tensors, plain values and `LeftOut`.

    Raises:
        ConvertError: the file is damaged, no file of weights, or would have to run code; one
            sentence that names it and says what to do.
    """
    with path.open("rb") as file:
        start = file.read(len(LEGACY))
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        return _read_safetensors(path)
    if start.startswith(PICKLE) and start != LEGACY:
        raise ConvertError(f"{path} is a bare pickle, which could run code and is not read: {SAVE}")
    unknown: list[str] = []
    try:
        unknown += _check_archive(path)
        return _load(path, unknown)
    except ConvertError:
        raise
    except Exception as error:  # torch raises what its readers happen to run into
        if refused := re.findall(r"GLOBAL (\S+)", str(error)) or unknown:
            raise ConvertError(
                f"{path} holds a pickled {refused[0]}, which could run code and is not read: {SAVE}"
            ) from error
        reason = f"it is damaged or not a file of torch.save ({first_line(error)})"
        raise ConvertError(f"{path} cannot be read: {reason}") from error


def _load(path: Path, unknown: list[str]) -> Any:
    stubs: Any = [(type("LeftOut", (LeftOut,), {"kind": name}), name) for name in unknown]
    with warnings.catch_warnings(), torch.serialization.safe_globals(stubs):
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> list[str]:
    """Compares a zip archive's checksums, which torch.load does not; returns the classes in it."""
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if part := archive.testzip():
            raise ValueError(f"the checksum of {part} in it is wrong")
    if any(re.search(r"(^|/)(constants\.pkl|code/|archive_format$)", name) for name in names):
        raise ConvertError(
            f"{path} holds a compiled program (TorchScript or torch.export), which is not read: "
            "load it in PyTorch and save its weights alone, torch.save(program.state_dict(), FILE)"
        )
    return torch.serialization.get_unsafe_globals_in_checkpoint(path)


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError:
        raise ConvertError(
            f"{path} is read by the package safetensors: pip install safetensors"
        ) from None
    try:
        return load_file(path)
    except Exception as error:  # of Rust, of torch
        reason = first_line(error)
        raise ConvertError(f"{path} cannot be read: it is damaged ({reason})") from error


def first_line(error: BaseException) -> str:
    """What an error says, without the advice in it or below it."""
    text = str(error)
    if inner := re.search(r"Weights\s?[Uu]npickler error: (.*)", text):
        text = inner[1]
    first = next(iter(text.splitlines()), "") or type(error).__name__
    return type(error).__name__ if "weights_only" in first else first
