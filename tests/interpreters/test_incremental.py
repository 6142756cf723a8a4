"""Incremental evaluation equals full evaluation, in values and gradients, for random networks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.extend import core

from gcpatch.attacks.engine import forward_of, reach_of, remember
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.step import Problem, evaluate
from gcpatch.interpreters.incremental import incremental
from gcpatch.interpreters.jaxpr import bind, trace
from gcpatch.networks import PAPER, operations, random
from gcpatch.networks.lowering import conv, max_pool

SIDE, CHANNELS = 17, 4


def trunk(network, images):
    return network.split()[0](images)


def layer(kind, kernel, stride, pad, groups):
    """One layer of a random network; takes and gives `[1, h, w, CHANNELS]`."""
    strides, pads = (stride, stride), ((pad, kernel // 2), (kernel // 2, pad))

    def shape(weight):
        return weight[:kernel, :kernel, : CHANNELS // groups]

    def slide(x, weight):
        return conv(x, shape(weight), strides, pads, feature_group_count=groups)

    def same(x, weight):
        pads = (((kernel - 1) // 2, kernel // 2),) * 2
        return conv(x, shape(weight), (1, 1), pads, feature_group_count=groups)

    return {
        "conv": slide,
        "relu": lambda x, weight: jax.nn.relu(slide(x, weight)),
        "pool": lambda x, weight: max_pool(x, (kernel, kernel), strides, pads),
        "norm": lambda x, weight: (x - weight[0, 0, 0]) * lax.rsqrt(weight[0, 0, 1] ** 2 + 1e-5),
        "tanh": lambda x, weight: jnp.tanh(x) + 0.1,
        "sum": lambda x, weight: x + same(x, weight),
        "unknown": lambda x, weight: x - x.mean((1, 2), keepdims=True),
    }[kind]


layers = st.tuples(
    st.sampled_from(["conv", "relu", "pool", "norm", "tanh", "sum", "unknown"]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 1),
    st.sampled_from([1, 2]),
)
places = st.tuples(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1), st.integers(1, SIDE))


def check(function, weights, image, tile, corner):
    """Compares both evaluations and their gradients by the tile; returns the prepared one."""
    jaxpr = trace(function, weights, shape=image.shape, dtype=image.dtype)
    found, places = incremental(jaxpr, corner, tile.shape[0])
    memory = jax.jit(found.precompute)(weights, image, places).memory

    def full(tile):
        changed = lax.dynamic_update_slice(image, tile, (*corner, 0))
        return function(weights, changed[None])[0]

    def fast(tile):
        return found.run(weights, memory, tile)

    def both(function):
        output, back = jax.vjp(function, tile)
        cotangent = np.random.default_rng(9).normal(size=output.shape)
        return output, back(jnp.asarray(cotangent))

    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12),
        *(jax.jit(both, static_argnums=0)(function) for function in (fast, full)),
    )
    return found


def check_within(function, weights, image, tile, corner, margin):
    """What an exact program finds of a tile is what the image with it gives a program near it."""
    jaxpr = trace(function, weights, shape=image.shape, dtype=image.dtype)
    (near, places), wide = (incremental(jaxpr, corner, len(tile), each) for each in (margin, None))

    def slow(image, tile):
        return near.precompute(weights, lax.dynamic_update_slice(image, tile, (*corner, 0)), places)

    def fast(image, tile):
        clean = wide.program.precompute(weights, image, wide.places).memory
        return near.precompute_within(wide, weights, clean, tile, places)

    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12),
        *(jax.jit(each)(image, tile) for each in (fast, slow)),
    )


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.generate],  # shrinking would compile for an hour
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(plan=st.lists(layers, min_size=1, max_size=4), place=places, seed=st.integers(0, 99))
def test_random_networks_and_rectangles(x64, plan, place, seed):
    generator = np.random.default_rng(seed)
    size = min(place[2], SIDE - max(place[:2]))
    image = jnp.asarray(generator.normal(size=(SIDE, SIDE, CHANNELS)))
    tile = jnp.asarray(generator.normal(size=(size, size, CHANNELS)))
    weights = [jnp.asarray(generator.normal(size=(4, 4, CHANNELS, CHANNELS))) for _ in plan]

    def function(weights, x):
        for item, weight in zip(plan, weights, strict=True):
            if min(x.shape[1:3]) >= 4:
                x = layer(*item)(x, weight)
        return x

    check(function, weights, image, tile, place[:2])
    check_within(function, weights, image, tile, place[:2], margin=seed % 3)


@pytest.mark.parametrize("name, corner", [("mini_vgg_bn", (0, 32)), ("mini_resnext", (9, 21))])
def test_the_zoo_has_a_rule_for_everything(x64, name, corner):
    network = random(name, dtype="float64")
    generator = np.random.default_rng(0)
    image, tile = (jnp.asarray(generator.random((side, side, 3))) for side in (64, 32))
    found = check(trunk, network, image, tile, corner)
    assert all(operation is None or operation.inside for operation in found.operations)


def dense(weights, x):
    """Two layers of a dense block and its transition."""
    for weight in weights[:2]:
        y = jax.nn.relu(
            operations.batch_norm(
                x, mean=weight[0, 0, 0, :1], var=weight[0, 0, 0, 1:2] ** 2, epsilon=1e-5
            )
        )
        kernel = jnp.tile(weight, (1, 1, x.shape[-1] // CHANNELS, 1))[:3, :3]
        x = operations.concatenate(x, operations.conv2d(y, kernel=kernel, **SAME), axis=-1)
    how = {"size": [2, 2], "strides": [2, 2], "padding": [[0, 0], [0, 0]], "ceil": False}
    return operations.avg_pool2d(x, count_padding=True, **how)


def shuffled(weights, x):
    """A depthwise layer on half of the channels, shuffled with the others."""
    left, right = x[..., :2], operations.pad(x[..., 2:], padding=[[1, 0], [0, 2]], value=0.0)
    kernel = weights[0][:2, :3, :1, :2]
    how = {"strides": [1, 1], "padding": [[0, 0], [0, 0]], "dilation": [1, 1], "groups": 2}
    right = operations.conv2d(right, kernel=kernel, **how)
    x = operations.concatenate(left, operations.hardswish(right), axis=-1)
    x = operations.unflatten(x, axis=-1, sizes=[2, 2])
    return operations.flatten(operations.transpose(x, order=[-4, -3, -1, -2]), start=-2, stop=-1)


def convnext(weights, x):
    """A ConvNeXt block: depthwise, normalised pixel by pixel, two products, a scale."""
    y = operations.conv2d(x, kernel=weights[0][:3, :3, :1], **SAME | {"groups": CHANNELS})
    y = operations.layer_norm(y, scale=weights[1][0, 0, 0], epsilon=1e-6, axes=[-1])
    y = operations.gelu(operations.linear(y, kernel=weights[1][1, 0]), approximate=False)
    return x + weights[0][2, 2, :1, :1] * operations.linear(y, kernel=weights[1][2, 1])


def excited(weights, x):
    """A depthwise layer, and squeeze-and-excite, which reads all of the map."""
    y = operations.silu(
        operations.conv2d(x, kernel=weights[0][:3, :3, :1], **SAME | {"groups": CHANNELS})
    )
    scale = operations.linear(y.mean((-3, -2), keepdims=True), kernel=weights[1][0, 0])
    return x + y * jax.nn.sigmoid(scale)


SAME = {"strides": [1, 1], "padding": [[1, 1], [1, 1]], "dilation": [1, 1], "groups": 1}


@pytest.mark.parametrize(
    "function, local", [(dense, True), (shuffled, True), (convnext, True), (excited, False)]
)
@pytest.mark.parametrize("corner, size", [((0, 11), 6), ((5, 4), 3)])
def test_blocks_of_other_families(function, local, corner, size, x64):
    generator = np.random.default_rng(3)
    image = jnp.asarray(generator.normal(size=(SIDE, SIDE, CHANNELS)))
    tile = jnp.asarray(generator.normal(size=(size, size, CHANNELS)))
    weights = [jnp.asarray(generator.normal(size=(4, 4, CHANNELS, CHANNELS))) for _ in range(2)]
    found = check(function, weights, image, tile, corner)
    assert local == all(operation is None or operation.inside for operation in found.operations)


def test_it_keeps_frames_and_not_maps():
    network = random("mini_vgg")
    found, places = incremental(trace(trunk, network, shape=(224, 224, 3)), (0, 160), 64)
    memory = jax.eval_shape(found.precompute, network, jnp.zeros((224, 224, 3)), places).memory
    size = sum(leaf.size for leaf in jax.tree.leaves(memory))
    assert size < 50_000  # the first map alone has 401,408 values


def test_vmapped_and_jitted_it_gives_the_same(tiny_resnet):
    network = tiny_resnet
    generator = np.random.default_rng(0)
    images, tiles = (jnp.float32(generator.random((2, side, side, 3))) for side in (64, 20))
    found, places = incremental(trace(trunk, network, shape=(64, 64, 3)), (5, 40), 20)
    memories = jax.jit(jax.vmap(found.precompute, (None, 0, None)))(network, images, places).memory
    outputs = jax.jit(jax.vmap(found.run, (None, 0, 0)))(network, memories, tiles)
    changed = images.at[:, 5:25, 40:60].set(tiles)
    expected = jax.vmap(network.split()[0])(changed)
    assert_close(outputs, expected)


def test_places_of_one_shape_class_share_a_program():
    network = random("mini_vgg")  # its trunk has a stride of 16
    jaxpr = trace(trunk, network, shape=(224, 224, 3))
    inner, shifted, odd, corner = (
        incremental(jaxpr, place, 32) for place in [(64, 64), (96, 80), (65, 64), (0, 192)]
    )
    assert inner[0] == shifted[0]
    assert hash(inner[0]) == hash(shifted[0])
    assert not np.array_equal(inner[1], shifted[1])
    assert inner[0] != odd[0]
    assert inner[0] != corner[0]


def test_one_batch_may_hold_places_of_one_shape_class(tiny64):
    network = tiny64
    generator = np.random.default_rng(0)
    image, tile = (jnp.asarray(generator.random((side, side, 3))) for side in (48, 8))
    corners = [(20, 16), (16, 28)]
    jaxpr = trace(trunk, network, shape=image.shape, dtype=image.dtype)
    found = [incremental(jaxpr, corner, 8) for corner in corners]
    assert found[0][0] == found[1][0]
    reach, places = found[0][0], np.stack([places for _, places in found])
    memories = jax.vmap(reach.precompute, (None, None, 0))(network, image, places).memory
    outputs = jax.vmap(reach.run, (None, 0, None))(network, memories, tile)
    for output, corner in zip(outputs, corners, strict=True):
        changed = lax.dynamic_update_slice(image, tile, (*corner, 0))
        expected = network.split()[0](changed)
        assert jnp.linalg.norm(output - expected) <= 1e-12 * jnp.linalg.norm(expected)


# ---- the near field


def block(weights, x):
    """A layer with a stride, a pool, and a sum of two ways, one of which has a stride too."""
    x = jax.nn.relu(conv(x, weights[0], (2, 2), ONE))
    for _ in range(2):
        x = x + jnp.tanh(conv(x, weights[1][:3, :3], (1, 1), ONE))
    y = max_pool(x, (2, 2), (2, 2), NO)
    return y + conv(x, weights[2][:2, :2], (2, 2), NO)


NO, ONE = ((0, 0), (0, 0)), ((1, 1), (1, 1))
WINDOWS = {"conv_general_dilated", "reduce_window_max"}


def kept_to(jaxpr, weights, cached, changed, corner, size, margin):
    """A function of a changed image, all of whose windows see the cached one beyond the margin."""

    def near(length, low):
        cells = np.arange(length)
        own = (cells * SIDE < (low + size) * length) & ((cells + 1) * SIDE > low * length)
        return np.array([own[max(0, i - margin) : i + margin + 1].any() for i in cells])

    def bind_both(equation, pairs):
        old, new = (bind(equation, [pair[i] for pair in pairs]) for i in (0, 1))
        if equation.primitive.name in WINDOWS:
            rows, columns = map(near, new[0].shape[1:3], corner)
            inside = np.outer(rows, columns)[..., None]
            new = [jnp.where(inside, *values) for values in zip(new, old, strict=True)]
        return list(zip(old, new, strict=True))

    def evaluated(equations, values):
        for equation in equations:
            pairs = [
                (atom.val,) * 2 if isinstance(atom, core.Literal) else values[atom]
                for atom in equation.invars
            ]
            values |= dict(zip(equation.outvars, bind_both(equation, pairs), strict=True))
        return values

    leaves = [(leaf, leaf) for leaf in jax.tree.leaves(weights)]
    inputs = dict(zip(jaxpr.invars, [*leaves, (cached[None], changed[None])], strict=True))
    return evaluated(jaxpr.eqns, inputs)[jaxpr.outvars[0]][1][0]


@pytest.mark.parametrize("corner, size, margin", [((0, 12), 5, 0), ((6, 5), 4, 0), ((6, 5), 4, 1)])
def test_near_a_patch_values_and_gradients_are_those_beside_a_cached_image(
    x64, corner, size, margin
):
    generator = np.random.default_rng(1)
    image = jnp.asarray(generator.normal(size=(SIDE, SIDE, CHANNELS)))
    tile, other = jnp.asarray(generator.normal(size=(2, size, size, CHANNELS)))
    weights = [jnp.asarray(generator.normal(size=(4, 4, CHANNELS, CHANNELS))) for _ in range(3)]
    cached = lax.dynamic_update_slice(image, other, (*corner, 0))
    jaxpr = trace(block, weights, shape=image.shape, dtype=image.dtype)
    found, places = incremental(jaxpr, corner, size, margin)
    assert not found.exact
    output, memory = jax.jit(found.precompute)(weights, cached, places)

    def fast(tile):
        return found.run(weights, memory, tile)

    def slow(tile):
        changed = lax.dynamic_update_slice(image, tile, (*corner, 0))
        return kept_to(jaxpr.jaxpr, weights, cached, changed, corner, size, margin)

    def exact(tile):
        return block(weights, lax.dynamic_update_slice(image, tile, (*corner, 0))[None])[0]

    def both(function, tile):
        output, back = jax.vjp(function, tile)
        return output, back(jnp.ones_like(output))

    check = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
    jax.tree.map(check, jax.jit(partial(both, fast))(tile), jax.jit(partial(both, slow))(tile))
    check(fast(other), exact(other))  # of the tile that is cached nothing is cut
    check(output, exact(other))
    assert jnp.abs(fast(tile) - exact(tile)).max() > 1e-6
    check_within(block, weights, image, other, corner, margin)


def test_a_margin_that_holds_everything_is_the_exact_program(tiny_resnet):
    jaxpr = trace(trunk, tiny_resnet, shape=(64, 64, 3))
    wide, exact = incremental(jaxpr, (5, 40), 20, 64), incremental(jaxpr, (5, 40), 20)
    assert wide.program == exact.program
    np.testing.assert_array_equal(wide.places, exact.places)
    assert not incremental(jaxpr, (5, 40), 20, 1).program.exact


PLACES = [(0, 0), (0, 160), (160, 0), (160, 160), (0, 77), (80, 80), (37, 91), (101, 13)]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("kind, tolerance", [("float64", 1e-12), ("float32", 1e-5)])
def test_gradients_of_the_papers_networks_at_corners_edges_centre_and_odd_offsets(
    name, kind, tolerance, x64, request
):
    if kind == "float32" and name in ("vgg19_bn", "wide_resnet101_2"):
        reason = "at some places rounding tips a unit or a pool's maximum over: 4e-4 and 1.5e-3"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    network, how = random(name, dtype=kind), Attack(objective="hide")
    generator = np.random.default_rng(0)
    image, tile = (jnp.asarray(generator.random((side, side, 3)), kind) for side in (224, 64))

    def gradient(network, tile, problem, reach):
        forward = forward_of(network, problem, None, reach)
        return jax.grad(evaluate, argnums=1, has_aux=True)(network, tile, problem, how, forward)[0]

    compiled = jax.jit(gradient, static_argnums=3)
    worst = {}
    for corner in PLACES:
        problem = Problem(
            image,
            jnp.asarray(0),
            jnp.asarray(1),
            jnp.ones((), kind),
            jnp.asarray(corner, jnp.int32),
            jax.random.key(0),
            jnp.zeros((1, 1), kind),
            jnp.zeros((1, 1), kind),
        )
        reach = reach_of(network, image, corner=corner, size=64)
        remembered = remember(network, problem, reach)
        full = compiled(network, tile, problem, None)
        fast = compiled(network, tile, remembered, reach.program)
        worst[corner] = float(jnp.linalg.norm(fast - full) / jnp.linalg.norm(full))
    print(name, kind, worst)
    assert max(worst.values()) <= tolerance
