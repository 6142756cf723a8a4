"""torch and torchvision, imported so that they also load where their builds do not match.

The package index's torchvision is built against CUDA torch: beside a CPU torch its compiled part
does not load, and its import then fails at `operator torchvision::nms does not exist`. The networks
need none of these operators; declaring the two that the import looks up is enough. It happens only
after that failure, because a build that matches declares them itself and would clash.
"""

from types import ModuleType
from typing import Any

from convert import ConvertError

_LIBRARIES: list[
    Any
] = []  # a torch.library.Library takes its operators with it when it is collected


def _declare_operators(torch: ModuleType) -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)


def _import() -> tuple[ModuleType, ModuleType]:
    """torch and torchvision; ConvertError where one is not installed or does not load."""
    try:
        import torch

        try:
            import torchvision
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            _declare_operators(torch)
            import torchvision
    except ModuleNotFoundError as error:
        raise ConvertError(
            f"conversion needs PyTorch and torchvision ({error}): install gcpatch[convert]"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConvertError(f"PyTorch or torchvision does not load here ({reason})") from error
    return torch, torchvision


torch, torchvision = _import()
