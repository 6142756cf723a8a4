"""What the rules say of rectangles is what windows do, counted in pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gcpatch.interpreters.jaxpr import trace
from gcpatch.interpreters.rectangles import FULL, Box, Change, Span, plan
from gcpatch.networks.lowering import conv, max_pool

LENGTH = 11


def planned(function, box):
    return plan(trace(function, (), shape=(LENGTH, LENGTH, 1)).jaxpr, box)


def rows_of(size, stride, pads):
    """The rows of the map, padding among them, that each output row sees."""
    count = (LENGTH + sum(pads) - size) // stride + 1
    return [range(i * stride - pads[0], i * stride - pads[0] + size) for i in range(count)]


@pytest.mark.parametrize("kind", ["conv", "pool"])
@pytest.mark.parametrize(
    "size, stride, pads", [(1, 1, (0, 0)), (3, 1, (1, 1)), (3, 2, (1, 0)), (4, 3, (0, 2))]
)
def test_windows_over_every_span(kind, size, stride, pads):
    def slide(_, x):
        if kind == "pool":
            return max_pool(x, (size, 1), (stride, 1), (pads, (0, 0)))
        return conv(x, jnp.ones((size, 1, 1, 1)), (stride, 1), (pads, (0, 0)))

    seen = rows_of(size, stride, pads)
    for low in range(LENGTH - 3):
        changed = range(low, low + 4)
        outputs = [i for i, rows in enumerate(seen) if {*rows} & {*changed}]
        needed = {row for i in outputs for row in seen[i]}
        inside = needed & {*range(LENGTH)}
        result = planned(slide, Box(Span(low, low + 4), Span(2, 5)))
        change = next(change for change in result.changes if change and change.reading)
        assert change.output == Box(Span(outputs[0], outputs[-1] + 1), Span(2, 5))
        assert change.hull.rows == (min({*changed} | inside), max({*changed} | inside) + 1)
        top = change.hull.rows.low
        assert change.reading.part.rows == (min(inside) - top, max(inside) + 1 - top)
        assert change.reading.pads[0] == (max(0, -min(needed)), max(0, max(needed) - LENGTH + 1))
        assert result.output == change.output


def test_a_sum_grows_to_the_hull_of_both():
    def function(_, x):
        return x + conv(x, jnp.ones((3, 1, 1, 1)), (1, 1), ((1, 1), (0, 0)))

    result = planned(function, Box(Span(4, 6), Span(2, 5)))
    assert result.output == Box(Span(3, 7), Span(2, 5))
    inner, outer = Box(Span(4, 6), Span(2, 5)), Box(Span(3, 7), Span(2, 5))
    assert result.changes[-1] == Change((inner, outer), hull=outer, output=outer)


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: x - x.mean((1, 2), keepdims=True),
        lambda _, x: x * jnp.arange(float(LENGTH))[None, None, :, None],
        lambda _, x: jnp.tanh(jnp.sort(x, 1)),
        lambda _, x: jnp.broadcast_to(x, (1, LENGTH, LENGTH, LENGTH)).sum(1),
        lambda _, x: x.swapaxes(1, 2),
        lambda _, x: x[:, ::-1] + x[:, :1],
        lambda _, x: jnp.matmul(jnp.ones((LENGTH, LENGTH)), x[..., 0])[..., None],
        lambda _, x: jnp.concatenate([x, x], 1),
        lambda _, x: jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=1),
    ],
    ids=[
        "mean",
        "a factor that varies over the map",
        "behind what has no rule",
        "a sum over rows that has a map's shape",
        "rows as columns",
        "some rows",
        "a product over rows",
        "more rows",
        "a border that is not zero",
    ],
)
def test_without_a_rule_everything_changes(function):
    assert planned(function, Box(Span(4, 6), Span(2, 5))).output is FULL


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: jnp.matmul(x, jnp.ones((1, 5))),
        lambda _, x: jnp.broadcast_to(x, (1, LENGTH, LENGTH, 6)).reshape(1, LENGTH, LENGTH, 2, 3),
        lambda _, x: jax.nn.silu(jnp.concatenate([x, -x], -1))[..., 1:],
        lambda _, x: x - x.mean(-1, keepdims=True),
        lambda _, x: jax.nn.leaky_relu(x),
    ],
    ids=["product", "reshape", "concatenation", "mean of channels", "behind jit"],
)
def test_pixels_by_themselves_stay_in_their_rectangle(function):
    box = Box(Span(4, 6), Span(2, 5))
    assert planned(function, box).output == box


def test_what_the_image_does_not_reach_does_not_change():
    result = planned(lambda _, x: jax.nn.relu(jnp.ones((1, 2, 2, 1))), Box(Span(4, 6), Span(2, 5)))
    assert result.output is None and not any(result.changes)


def test_boxes():
    box = Box(Span(4, 6), Span(2, 5))
    assert (box.origin, box.size) == ((4, 2), (2, 3))
    assert box.seen_from((1, 2)) == Box(Span(3, 5), Span(0, 3))
    assert box.hull(Box(Span(5, 9), Span(0, 3))) == Box(Span(4, 9), Span(0, 5))
    np.testing.assert_array_equal(np.array(box), [[4, 6], [2, 5]])


@pytest.mark.parametrize("margin", [0, 1, 2, 5])
@pytest.mark.parametrize("size, stride, pads", [(3, 1, (1, 1)), (3, 2, (1, 1)), (5, 1, (0, 0))])
def test_near_a_rectangle_windows_keep_to_its_cells_and_a_margin(size, stride, pads, margin):
    def slide(_, x):
        return conv(x, jnp.ones((size, 1, 1, 1)), (stride, 1), (pads, (0, 0)))

    seen = rows_of(size, stride, pads)
    side = LENGTH / len(seen)  # of a cell, in rows of the image
    for low in range(LENGTH - 3):
        box = Box(Span(low, low + 4), Span(2, 5))
        covered = {i for i in range(len(seen)) if i * side < low + 4 and (i + 1) * side > low}
        near = {i + offset for i in covered for offset in range(-margin, margin + 1)}
        outputs = [i for i, rows in enumerate(seen) if {*rows} & {*range(low, low + 4)}]
        kept = [i for i in outputs if i in near]
        jaxpr = trace(slide, (), shape=(LENGTH, LENGTH, 1)).jaxpr
        change = next(each for each in plan(jaxpr, box, margin).changes if each and each.reading)
        assert change.output.rows == (kept[0], kept[-1] + 1)
        inside = {row for i in kept for row in seen[i]} & {*range(LENGTH)}
        top = change.hull.rows.low
        assert change.reading.part.rows == (min(inside) - top, max(inside) + 1 - top)


@pytest.mark.parametrize("margin", [0, 1, 3])
@pytest.mark.parametrize("size, stride, pads", [(1, 1, (0, 0)), (1, 2, (0, 0)), (3, 2, (1, 0))])
def test_near_a_rectangle_nothing_lies_outside_of_what_changes(size, stride, pads, margin):
    def inside(part, whole):
        return whole is FULL or all(
            low <= first < last <= high
            for (first, last), (low, high) in zip(part, whole, strict=True)
        )

    def block(_, x):
        kernel, same = jnp.ones((size, size, 1, 1)), jnp.ones((3, 3, 1, 1))
        x = x + conv(x, same, (1, 1), ((1, 1), (1, 1)))
        x = conv(x, kernel, (stride, stride), (pads, pads))
        return x + conv(x, same, (1, 1), ((1, 1), (1, 1)))

    jaxpr = trace(block, (), shape=(LENGTH, LENGTH, 1)).jaxpr
    for low in range(LENGTH - 1):
        box = Box(Span(low, low + 2), Span(0, 2))
        pairs = zip(plan(jaxpr, box, margin).changes, plan(jaxpr, box).changes, strict=True)
        pairs = [(near, wide) for near, wide in pairs if wide]
        assert len(pairs) > 4
        for near, wide in pairs:
            assert inside(near.output, wide.output) and inside(near.hull, wide.hull)


def test_sums_and_what_has_no_windows_grow_as_without_a_margin():
    def function(_, x):
        return jax.nn.relu(x + conv(x, jnp.ones((5, 5, 1, 1)), (1, 1), ((2, 2), (2, 2))))

    box = Box(Span(4, 6), Span(2, 5))
    jaxpr = trace(function, (), shape=(LENGTH, LENGTH, 1)).jaxpr
    assert plan(jaxpr, box, 1).output == Box(Span(3, 7), Span(1, 6))
    assert plan(jaxpr, box, LENGTH) == plan(jaxpr, box)
    assert plan(jaxpr, box, 0).output == box
