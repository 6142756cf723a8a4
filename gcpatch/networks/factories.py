"""Networks that a user's own function makes, named `module:factory`."""

import importlib
import sys
from pathlib import Path
from typing import Any

from gcpatch.errors import UserError
from gcpatch.networks.network import Network

LIBRARIES = ("torchvision", "timm")  # what before a colon names a library of PyTorch's networks


def is_spec(name: str) -> bool:
    """Whether a name is `torchvision:NAME`, `timm:NAME` or `module:factory`, and no path."""
    return ":" in name and not Path(name).expanduser().exists()


def find(text: str, what: str) -> Any:
    """The function that `module:function` names; the current folder is searched as well.

    Raises:
        UserError: there is none.
    """
    module, _, name = text.partition(":")
    search_here()
    try:
        return getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # whatever a user's module raises
        raise UserError(f"there is no {what} {text!r}: {_said(error)}") from None


def search_here() -> None:
    """Has Python look for modules in the current folder too."""
    if "" not in sys.path:
        sys.path.insert(0, "")


def make(spec: str) -> Any:
    """What a factory, named `module:factory`, gives.

    Raises:
        UserError: there is none, or it raises.
    """
    factory = find(spec, "network")
    try:
        return factory()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's function raises
        raise UserError(f"{spec} raises {type(error).__name__}: {_said(error)}") from None


def load(spec: str) -> Network:
    """The network that a factory gives.

    Raises:
        UserError: there is no such factory, it raises, or it gives something else; PyTorch's
            networks are to be converted.
    """
    library = spec.partition(":")[0]
    made = None if library in LIBRARIES else make(spec)
    if isinstance(made, Network):
        return made
    torch = sys.modules.get("torch")
    if library in LIBRARIES or (torch and isinstance(made, torch.nn.Module)):
        raise UserError(
            f"{spec} is a network of PyTorch: run `gcpatch convert {spec}` and name what that makes"
        )
    raise UserError(
        f"{spec} gives {type(made).__name__} instead of a gcpatch.Network, as gcpatch.adapt makes"
    )


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
