"""ReLU exchanged in networks whose code does not know of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from flax import nnx
from jax.test_util import check_grads

from gcpatch.errors import UserError
from gcpatch.interpreters.relu import Exchanged, exchange, smooth
from gcpatch.networks import Network

X = jnp.asarray([-1.0, -0.1, 0.0, 0.2, 3.0])


def softplus(x, beta):
    return np.log1p(np.exp(beta * np.asarray(x))) / beta


class Two(Network):
    """Two ReLUs, one under a jit of its own, and a maximum that is none."""

    def __init__(self):
        super().__init__("two", "first", ("a", "b"))
        self.weights = nnx.Param(jnp.asarray([[1.0, -2.0, 0.5], [-1.0, 1.0, 1.0]]).T)

    def stages(self):
        return {
            "first": lambda x: jax.nn.relu(x),
            "second": lambda x: jax.jit(lambda y: 2 * jax.nn.relu(y - 1))(x),
            "third": lambda x: jnp.maximum(x, 0.1),
            "fc": lambda x: x.mean((-3, -2)) @ self.weights[...],
        }


def test_every_relu_is_exchanged_and_nothing_else():
    network, image = Two(), jnp.linspace(0, 1, 12).reshape(2, 2, 3)
    first = softplus(network.normalize(image), 3.0)
    third = np.maximum(2 * softplus(first - 1, 3.0), 0.1)
    soft = smooth(network, 3.0)
    np.testing.assert_allclose(soft(image), third.mean((0, 1)) @ network.weights[...], rtol=1e-5)
    trunk, head = soft.split()
    np.testing.assert_allclose(trunk(image), first, rtol=1e-5)
    np.testing.assert_allclose(head(trunk(image)), soft(image), rtol=1e-6)
    assert (soft.name, soft.target_layer, soft.categories) == ("two", "first", ("a", "b"))
    assert list(soft.activations(image)) == list(network.activations(image))


def test_with_its_own_relu_a_network_is_itself(tiny_resnet):
    network, image = tiny_resnet, np.random.default_rng(0).random((32, 32, 3), np.float32)
    run = jax.jit(lambda network, image: network(image))
    same = Exchanged(network, jax.nn.relu)
    assert_close(run(same, image), run(network, image))
    near, far = (run(smooth(network, beta), image) for beta in (1e6, 2.0))
    np.testing.assert_allclose(near, run(network, image), rtol=1e-3, atol=1e-4)
    assert np.abs(far - near).max() > 1e-3


def test_equal_settings_share_a_program(tiny):
    traced = []
    run = jax.jit(lambda network, image: traced.append(1) or network(image))
    for beta in (2.0, 2.0, 3.0):
        run(smooth(tiny, beta), jnp.ones((8, 8, 3)))
    assert len(traced) == 2


def test_softplus_has_every_derivative(x64):
    soft = exchange(jax.nn.relu, smooth(Two(), 4.0).rectifier)
    check_grads(lambda x: soft(jnp.asarray(x)), (X.astype("float64"),), order=3)


def test_where_relu_cannot_be_exchanged():
    def loop(x):
        return jax.lax.fori_loop(0, 2, lambda _, y: jax.nn.relu(y), x)

    with pytest.raises(TypeError, match=r"a ReLU inside (scan|while) cannot"):
        exchange(loop, jnp.tanh)(X)
    plain = exchange(lambda x: jax.lax.fori_loop(0, 2, lambda _, y: 2 * y, x), jnp.tanh)
    np.testing.assert_array_equal(plain(X), 4 * X)
    with pytest.raises(UserError, match="beta is -1"):
        smooth(Two(), -1.0)
