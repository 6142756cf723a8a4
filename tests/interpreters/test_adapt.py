"""Networks of Flax NNX, Linen, Equinox and plain functions, made into gcpatch's."""

import subprocess
import sys

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from flax import linen, nnx
from jax.ad_checkpoint import checkpoint_name

import gcpatch
from gcpatch.attacks.engine import forward_of, reach_of, remember
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack
from gcpatch.attacks.step import make_problem
from gcpatch.errors import UserError
from gcpatch.interpreters.adapt import adapt
from gcpatch.interpreters.naming import AdaptError
from gcpatch.networks import parameters
from gcpatch.networks.checkpoints import digest

SIDE = 24
ABOUT = dict(categories=list("abcde"), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), size=SIDE)
IMAGES = jnp.asarray(np.random.default_rng(0).random((2, SIDE, SIDE, 3), np.float32))
KERNEL = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
LAST = jax.random.normal(jax.random.key(2), (4, 5))


def normalized(images):
    return (images - jnp.asarray(ABOUT["mean"])) / jnp.asarray(ABOUT["std"])


class Flax(nnx.Module):
    """A batch of images, with normalisation and dropout, a shortcut, and ReLUs as functions."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.block = nnx.Sequential(nnx.Conv(8, 8, (3, 3), rngs=rngs), nnx.relu)
        self.conv2 = nnx.Conv(8, 6, (3, 3), strides=2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.linear = nnx.Linear(6, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv1(x)))
        x = x + self.block(x)
        x = nnx.relu(self.conv2(x)).mean((1, 2))
        return self.linear(self.dropout(x))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Conv(6, (3, 3), name="conv")(x))
        return linen.Dense(5)(x.mean((1, 2)))


class Eqx(equinox.Module):
    """One image, channels first."""

    layers: list
    linear: equinox.nn.Linear

    def __init__(self, key):
        self.layers = [equinox.nn.Conv2d(3, 6, 3, key=key), equinox.nn.Conv2d(6, 6, 3, key=key)]
        self.linear = equinox.nn.Linear(6, 5, key=key)

    def __call__(self, x):
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return self.linear(x.mean((1, 2)))


def trunk(kernel, image):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.nn.relu(
        jax.lax.conv_general_dilated(
            image[None], kernel, (1, 1), "SAME", dimension_numbers=dimensions
        )
    )[0]


def head(last, value):
    return value.mean((0, 1)) @ last


def flax():
    model = Flax(nnx.Rngs(0))
    model.norm.mean[...] = jnp.linspace(-0.1, 0.1, 8)
    model.eval()
    return model


def cases():
    linen_variables = Linen().init(jax.random.key(0), IMAGES)
    eqx = Eqx(jax.random.key(0))
    both = {"kernel": KERNEL, "last": LAST}

    def whole(params, image):
        return head(params["last"], checkpoint_name(trunk(params["kernel"], image), "maps"))

    return {
        "flax": (adapt(flax(), **ABOUT), flax()(normalized(IMAGES)), "relu(conv2)"),
        "linen": (
            adapt(Linen(), params=linen_variables, **ABOUT),
            Linen().apply(linen_variables, normalized(IMAGES)),
            "relu(conv)",
        ),
        "equinox": (
            adapt(eqx, **ABOUT),
            jax.vmap(eqx)(normalized(IMAGES).transpose(0, 3, 1, 2)),
            "relu(layers.1)",
        ),
        "function": (
            adapt(whole, params=both, **ABOUT),
            jax.vmap(lambda image: whole(both, image))(normalized(IMAGES)),
            "maps",
        ),
        "two functions": (
            adapt((lambda x: trunk(KERNEL, x), lambda x: head(LAST, x)), **ABOUT),
            jax.vmap(lambda image: head(LAST, trunk(KERNEL, image)))(normalized(IMAGES)),
            "trunk",
        ),
    }


CASES = cases()


@pytest.mark.parametrize("kind", CASES)
def test_the_logits_are_the_models_own_and_the_network_can_be_cut(kind):
    network, wanted, layer = CASES[kind]
    assert_close(network(IMAGES), wanted)
    assert_close(network(IMAGES[1]), wanted[1])
    assert network.target_layer == network.resolve() == layer
    for name in network.stages():
        before, behind = network.split(name)
        assert_close(behind(before(IMAGES)), wanted)
    assert network.split()[0](IMAGES).shape[:3] == (2, *network.split()[0](IMAGES[0]).shape[:2])


@pytest.mark.parametrize("kind", CASES)
def test_grad_cam_is_that_of_the_definition(kind):
    network, _, _ = CASES[kind]
    before, behind = network.split()
    maps = before(IMAGES[0])
    alpha = jax.grad(lambda a: behind(a)[3])(maps).mean((0, 1))
    wanted = np.maximum((maps * alpha).sum(-1), 0)
    found = jax.jit(gcpatch.grad_cam)(network, IMAGES[0], 3)
    assert_close(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("kind", CASES)
def test_what_a_patch_reaches_is_what_the_whole_network_gives(kind):
    network, _, _ = CASES[kind]
    place = Patch(6).place(SIDE, SIDE)
    problem = make_problem(network, IMAGES[0], 1, Attack(), placement=place, key=jax.random.key(0))
    reach = reach_of(network, problem.image, corner=place.corner, size=6)
    tile, known = IMAGES[1, :6, :6], remember(network, problem, reach)
    full = forward_of(network, problem, None, None)(tile)
    fast = forward_of(network, known, None, reach.program)(tile)
    assert_close(fast, full)


def test_it_is_attacked_as_any_other():
    network = CASES["flax"][0]
    results = gcpatch.attack(network, IMAGES, [1, 2], Patch(6), Attack(objective="hide", steps=3))
    assert all(np.isfinite(result.history.total).all() for result in results)


def test_parameters_have_the_paths_of_the_model_and_the_digest_sees_each():
    names = parameters(CASES["flax"][0])
    assert {"conv1.kernel", "norm.mean", "norm.scale", "block.layers.0.kernel"} < names.keys()
    assert {"layers.0.weight", "linear.bias"} < parameters(CASES["equinox"][0]).keys()
    assert "params.conv.kernel" in parameters(CASES["linen"][0])
    assert [*parameters(CASES["two functions"][0])] == ["constant0", "constant1"]
    assert len({digest(network) for network, _, _ in CASES.values()}) == len(CASES)
    moved = flax()
    moved.norm.mean[...] += 1e-3
    assert digest(adapt(moved, **ABOUT)) != digest(CASES["flax"][0])
    other = ABOUT | {"mean": (0.5, 0.4, 0.2)}
    assert digest(adapt(flax(), **other)) != digest(CASES["flax"][0])


def test_a_layer_that_values_pass_by_is_no_cut():
    network = CASES["flax"][0]
    assert "relu(norm)" in network.stages() and "block" not in network.stages()
    with pytest.raises(UserError, match="has no layer 'block'; it has conv1, norm"):
        adapt(flax(), layer="block", **ABOUT)
    assert adapt(flax(), layer="conv1", **ABOUT).split()[0](IMAGES[0]).shape == (SIDE, SIDE, 8)


@pytest.mark.parametrize(
    "model, about, message",
    [
        (Flax(nnx.Rngs(0)), {}, "changes its [a-z.]+: put it into evaluation mode first"),
        (Linen(), {}, "needs its variables"),
        (3, {}, "a int cannot be called"),
        (lambda image: image.mean(), {}, "does not give 5 logits.*: \\[\\]"),
        (lambda image: image.mean((-3, -2)), {}, "does not give 5 logits.*: \\[3\\]"),
        (lambda image: unknown, {}, "name 'unknown' is not defined"),  # noqa: F821
        (lambda image: image.sum() * jnp.ones(5), {}, "no named layer with a map"),
        (flax(), {"categories": ["one"]}, "has 1 categories; a classifier has at least 2"),
        (flax(), {"categories": list("abcd")}, "does not give 4 logits"),
        (flax(), {"std": (0.0, 1.0, 1.0)}, "std is"),
        (flax(), {"size": 0}, "size is 0"),
    ],
)
def test_what_cannot_be_adapted_is_one_sentence(model, about, message):
    with pytest.raises(UserError, match=message) as caught:
        adapt(model, **ABOUT | about)
    assert "\n" not in str(caught.value)


WIDE = jax.random.normal(jax.random.key(3), (3 * SIDE * SIDE, 5))


@pytest.mark.parametrize(
    "model, about, message",
    [
        (lambda x: jax.nn.softmax(head(LAST, trunk(KERNEL, x))), {}, "gives probabilities"),
        (lambda x: jax.nn.one_hot(head(LAST, trunk(KERNEL, x)).argmax(), 5), {}, "zero everywhere"),
        (lambda x: checkpoint_name(x, "q").reshape(1, -1) @ WIDE, {}, "last as well as first"),
        (lambda x: x.mean() * jnp.ones(5, complex), {}, "no gradient"),
        ((1, 2, 3), {}, "there are 3 functions; give two"),
        (flax(), {"categories": "abcde"}, "give a list of the classes' names"),
    ],
)
def test_what_would_be_adapted_to_something_else(model, about, message):
    with pytest.raises(UserError, match=message):
        adapt(model, **ABOUT | about)


TYPES = """
import gcpatch, numpy as np

def model(image):
    return image

about = dict(categories=list("abcde"), mean=(0.5,) * 3, std=(0.5,) * 3, size=24)
for wrong, words in (
    ({"categories": None}, "give a list of the classes' names"),
    ({"categories": [*"abcd", None]}, "the category None is no name"),
    ({"mean": 0.5}, "mean is 0.5; it must be three numbers"),
    ({"std": None}, "std is None; it must be three numbers"),
    ({"size": "24"}, "size is '24'; it must be a whole number"),
    ({"size": (24, 24)}, "size is (24, 24); it must be a whole number"),
):
    try:
        gcpatch.adapt(model, **about | wrong)
    except gcpatch.errors.UserError as error:
        assert words in str(error), error
    else:
        raise AssertionError(wrong)
"""


def test_other_types_are_one_sentence_where_no_types_are_checked():
    """In a process of its own, because in this one jaxtyping would refuse them first."""
    subprocess.run([sys.executable, "-c", TYPES], check=True)


def test_names_inside_a_jit_are_found_and_arrays_are_means():
    def whole(image):
        return head(LAST, checkpoint_name(trunk(KERNEL, image), "maps"))

    about = ABOUT | {"mean": np.array(ABOUT["mean"]), "std": list(ABOUT["std"])}
    network = adapt(jax.jit(whole), **about)
    assert network.target_layer == "maps"
    assert network.preprocessing.mean == ABOUT["mean"] and network.std == ABOUT["std"]
    assert_close(network(IMAGES), CASES["function"][1])


def test_parameters_that_are_not_finite_are_refused():
    broken = flax()
    broken.norm.var[...] = jnp.nan
    with pytest.raises(AdaptError, match=r"not finite: norm\.var"):
        adapt(broken, **ABOUT)


def test_an_image_of_another_size_is_refused():
    with pytest.raises(UserError, match=r"takes \[24, 24, 3\] here, not \[8, 8, 3\]"):
        CASES["flax"][0](IMAGES[0, :8, :8])


def test_the_digest_is_of_the_program_too():
    def network(function):
        return adapt(
            (lambda x: function(x), lambda a: a.mean((-3, -2))),
            categories=("a", "b", "c"),
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            size=4,
        )

    assert digest(network(jnp.tanh)) == digest(network(jnp.tanh))
    assert digest(network(jnp.tanh)) != digest(network(jnp.sin))
    assert digest(network(jax.nn.relu)) == digest(network(jax.nn.relu))
