"""What moves values: cuts, joins, views and padding."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from convert.tracing.writer import BATCH, Unsupported, Value, handles


@handles("cat")
def _cat(writer, tensors, dim=0):
    if not all(isinstance(part, Value) for part in tensors):
        raise Unsupported("it appends a parameter")
    dim = dim % len(tensors[0].shape)
    if dim == 0:
        raise Unsupported("it appends images to a batch")
    layout = tensors[0].layout
    parts = [writer.lay(part, layout) for part in tensors]
    shape = list(parts[0].shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    return writer.emit("cat", *parts, shape=shape, layout=layout, axis=parts[0].axis(dim))


def _slice_of(writer, value: Value, dim: int, start: int, stop: int, step: int = 1) -> Value:
    length = value.shape[dim]
    if (start, stop, step) == (0, length, 1):
        return value
    if dim == 0:
        raise Unsupported("it goes over the images of a batch")
    shape = list(value.shape)
    shape[dim] = -(-(stop - start) // step)
    axis, end = value.axis(dim), None if stop == length else stop
    layout = value.layout
    return writer.emit(
        "slice", value, shape=shape, layout=layout, axis=axis, start=start, stop=end, step=step
    )


@handles("slice")
def _slice(writer, self, dim=0, start=None, end=None, step=1):
    dim = dim % len(self.shape)
    start, stop, step = slice(start, end, step).indices(self.shape[dim])
    return _slice_of(writer, self, dim, start, max(start, stop), step)


@handles("split", "split_with_sizes")
def _split(writer, self, split_size=None, split_sizes=None, dim=0):
    dim = dim % len(self.shape)
    size, length = split_size if split_sizes is None else split_sizes, self.shape[dim]
    sizes = (
        [min(size, length - i) for i in range(0, length, size)] if isinstance(size, int) else size
    )
    starts = np.cumsum([0, *sizes]).tolist()
    return [_slice_of(writer, self, dim, a, b) for a, b in itertools.pairwise(starts)]


@handles("chunk")
def _chunk(writer, self, chunks, dim=0):
    return _split(writer, self, split_size=-(-self.shape[dim] // chunks), dim=dim)


@handles("select")
def _select(writer, self, dim, index):
    dim = dim % len(self.shape)
    index = index % self.shape[dim]
    return _squeeze(writer, _slice_of(writer, self, dim, index, index + 1), dim)


@handles("unbind")
def _unbind(writer, self, dim=0):
    return [_select(writer, self, dim, i) for i in range(self.shape[dim])]


@handles("permute")
def _permute(writer, self, dims):
    rank = len(self.shape)
    dims = [dim % rank for dim in dims]
    if dims[0] != 0:
        raise Unsupported("it exchanges the images of a batch with another axis")
    layout = tuple(dims.index(axis) for axis in self.layout)
    return Value(self.node, tuple(self.shape[dim] for dim in dims), layout)


@handles("transpose", "swapaxes")
def _transpose(writer, self, dim0=0, dim1=1, axis0=None, axis1=None):
    dims = list(range(len(self.shape)))
    a, b = (dim0, dim1) if axis0 is None else (axis0, axis1)
    dims[a], dims[b] = dims[b], dims[a]
    return _permute(writer, self, dims)


@handles("squeeze")
def _squeeze(writer, self, dim=None):
    rank = len(self.shape)
    dims = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = sorted({dim % rank for dim in dims if self.shape[dim] == 1})
    if not gone:
        return self
    left = [dim for dim in range(rank) if dim not in gone]
    return writer.emit(
        "squeeze",
        self,
        shape=[self.shape[dim] for dim in left],
        layout=[left.index(axis) for axis in self.layout if axis in left],
        axes=[self.axis(dim) for dim in gone],
    )


@handles("unsqueeze")
def _unsqueeze(writer, self, dim):
    rank = len(self.shape) + 1
    dim = dim % rank
    return _view(writer, self, [*self.shape[:dim], 1, *self.shape[dim:]])


@handles("expand", "expand_as")
def _expand(writer, self, **_):
    return self  # the operation behind it expands its values by itself


@handles("view", "reshape", "_unsafe_view", "flatten", "unflatten")
def _view(writer, self, size=None, shape=None, **_):
    """Axes of torch's that are merged are brought side by side; then those that are cut are cut."""
    size = list(size if shape is None else shape)
    if -1 in size:
        rest = math.prod(n for n in size if n != -1)
        size[size.index(-1)] = math.prod(self.shape) // rest
    groups = _groups(self.shape, size)
    if groups[0] != ([BATCH], [BATCH]):
        raise Unsupported("it mixes the images of a batch")
    value, place = self, 0
    for old, new in groups:
        if old != new:
            value = _cut(writer, _merge(writer, value, place, len(old)), place, new)
        place += len(new)
    return value


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Axes before and after, in the smallest groups that hold as many values."""
    groups: list[tuple[list[int], list[int]]] = []
    before, after = list(old), list(new)
    while before and after:
        group: tuple[list[int], list[int]] = ([before.pop(0)], [after.pop(0)])
        while math.prod(group[0]) != math.prod(group[1]):
            smaller = math.prod(group[0]) < math.prod(group[1])
            group[0 if smaller else 1].append((before if smaller else after).pop(0))
        groups.append(group)
    groups[-1][0].extend(before)
    groups[-1][1].extend(after)
    return groups


def _merge(writer, value: Value, place: int, count: int) -> Value:
    """Torch's axes from a place on as one; those of length one are dropped, which moves nothing."""
    ones = [i for i in range(place, place + count) if value.shape[i] == 1]
    ones = ones[1:] if len(ones) == count else ones
    value, count = _squeeze(writer, value, ones), count - len(ones)
    if ones:
        value.node.label = "flatten"
    if count == 1:
        return value
    rank, run = len(value.shape), tuple(range(place, place + count))
    at = [value.layout.index(axis) for axis in run]
    if at != list(range(at[0], at[0] + count)):
        others = [axis for axis in value.layout if axis not in run[1:]]
        at_first = others.index(place)
        value = writer.lay(value, (*others[:at_first], *run, *others[at_first + 1 :]))
        at = [value.layout.index(axis) for axis in run]
    shape = (
        *value.shape[:place],
        math.prod(value.shape[place : place + count]),
        *value.shape[place + count :],
    )
    layout = [
        axis if axis <= place else axis - count + 1 for axis in value.layout if axis not in run[1:]
    ]
    start, stop = at[0] - rank, at[-1] - rank
    return writer.emit("flatten", value, shape=shape, layout=layout, start=start, stop=stop)


def _cut(writer, value: Value, place: int, sizes: Sequence[int]) -> Value:
    """One of torch's axes as several."""
    if len(sizes) == 1:
        return value
    axis, extra = value.axis(place), len(sizes) - 1
    shape = (*value.shape[:place], *sizes, *value.shape[place + 1 :])
    layout: list[int] = []
    for old in value.layout:
        if old == place:
            layout += range(place, place + len(sizes))
        else:
            layout.append(old if old < place else old + extra)
    return writer.emit("unflatten", value, shape=shape, layout=layout, axis=axis, sizes=list(sizes))


@handles("pad", "constant_pad_nd")
def _pad(writer, self, pad, mode="constant", value=None):
    value_ = writer.channels_last(self)
    pairs = [list(pad[i : i + 2]) for i in range(0, len(pad), 2)]  # of the last axis first
    if mode != "constant" or len(self.shape) != 4 or min(pad) < 0 or any(map(any, pairs[2:])):
        raise Unsupported("only a constant around a map can be")
    pads = [*reversed(pairs), [0, 0]][-3:][:2] if len(pairs) == 2 else [[0, 0], pairs[0]]
    shape = [*self.shape[:2], *(n + sum(p) for n, p in zip(self.shape[2:], pads, strict=True))]
    fill = float(value or 0)
    return writer.emit("pad", value_, shape=shape, layout=(0, 2, 3, 1), padding=pads, value=fill)
