"""ATen operations, as torch.export gives them, as the operations of a graph: one function each.

torch's maps are `[n, c, h, w]` and ours `[h, w, c]`, so a value carries its *layout*: which of
torch's axes each of its own axes is, the batch's first. A permutation in torch only renames the
axes; they move where an operation needs them elsewhere, as a flattened map needs its channels
first.

A handler's arguments have torch's names, but for the first, which writes nodes down.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convert.operators import torch

BATCH = 2  # images of the traced batch; with one, an operation across images would not show


@dataclass(frozen=True)
class Value:
    """What a node gives: its key, its shape in torch, and which of torch's axes each axis is."""

    node: Any
    shape: tuple[int, ...]
    layout: tuple[int, ...]

    def axis(self, torch_axis: int) -> int:
        """Our place of an axis of torch's, counted from the last."""
        return self.layout.index(torch_axis % len(self.shape)) - len(self.shape)


@dataclass(frozen=True)
class Constant:
    """A parameter by torch's name, or what is computed from parameters alone."""

    tensor: Any
    name: str | None


@dataclass
class Draft:
    """A node whose name is not known yet; its inputs are drafts or the image.

    Attributes:
        label: what it is called where no module is; the operation's name if None.
    """

    module: str
    call: str
    operation: str
    inputs: tuple[Any, ...]
    attributes: dict[str, Any]
    parameters: dict[str, tuple[Constant, str | None, np.ndarray]]
    layout: tuple[int, ...]
    shape: tuple[int, ...]
    label: str | None = None
    name: str = ""
    keys: dict[str, str] = field(default_factory=dict)


class Unsupported(Exception):  # noqa: N818  (what is unsupported, not an error of ours)
    """What of an operation is not supported."""


Handler = Callable[..., Any]
HANDLERS: dict[str, Handler] = {}


def handles(*words: str) -> Callable[[Handler], Handler]:
    """A decorator: the function handles the operations of these names."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(words, handler))
        return handler

    return register


class Writer:
    """Writes nodes down.

    Attributes:
        leaves: the names of the modules without modules in them.
        module, call: the module that is at work, and its call, should it have several.
        drafts: what was written.
    """

    def __init__(self, leaves: set[str]):
        self.leaves = leaves
        self.module = self.call = ""
        self.drafts: list[Draft] = []

    def emit(
        self,
        operation: str,
        *inputs: Value,
        shape: Sequence[int],
        layout: Sequence[int],
        parameters: Mapping[str, tuple[Constant, str | None, Any]] | None = None,
        **attributes: Any,
    ) -> Value:
        """Writes an operation down; a parameter is a constant, its key's word, and its value."""
        arrays = {
            role: (constant, word, array(tensor))
            for role, (constant, word, tensor) in (parameters or {}).items()
        }
        draft = Draft(
            self.module,
            self.call,
            operation=operation,
            inputs=tuple(value.node for value in inputs),
            attributes=attributes,
            parameters=arrays,
            layout=tuple(layout),
            shape=tuple(shape),
        )
        self.drafts.append(draft)
        return Value(draft, draft.shape, draft.layout)

    def same(self, operation: str, value: Value, /, **attributes: Any) -> Value:
        """An operation that leaves shape and layout as they are."""
        return self.emit(operation, value, shape=value.shape, layout=value.layout, **attributes)

    def lay(self, value: Value, layout: Sequence[int]) -> Value:
        """A value with its axes in this order."""
        if value.layout == tuple(layout):
            return value
        rank = len(layout)
        order = [value.layout.index(axis) - rank for axis in layout[1:]]
        return self.emit("transpose", value, shape=value.shape, layout=layout, order=order)

    def channels_last(self, value: Value) -> Value:
        """A value `[n, c, ...]` with its channels as the last axis."""
        return self.lay(value, (0, *range(2, len(value.shape)), 1))


def array(tensor: Any) -> np.ndarray:
    """A copy in float64 or float32, which JAX may keep."""
    tensor = tensor.cpu() if tensor.dtype == torch.float64 else tensor.cpu().float()
    return np.array(tensor.contiguous().numpy(), order="C")


def pair(value: Any) -> list[int]:
    """A setting of rows and of columns, which torch may write as one number."""
    value = [value] if isinstance(value, int) else list(value)
    return value * 2 if len(value) == 1 else value


def both(padding: Any) -> list[list[int]]:
    """The same padding before and behind rows, and columns."""
    return [[pad, pad] for pad in pair(padding)]
