"""Which tensors hold plain floating-point numbers."""

from typing import Any

from convert.operators import torch

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def oddity(value: Any) -> str | None:
    """What keeps a value from being a plain tensor of floating-point numbers; None if nothing does.

    It looks at no number, so that a tensor that claims to be huge is never made whole.
    """
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    if value.is_quantized:
        return "quantised"
    if value.is_meta:
        return "meta: without values"
    if value.layout != torch.strided:
        return "sparse"
    if value.dtype not in FLOATS:
        return str(value.dtype).removeprefix("torch.")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return "larger than what is stored of it"
    return None
