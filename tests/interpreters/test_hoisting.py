"""The cut of a program into what depends on the weights alone and the rest."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gcpatch.interpreters.hoisting import hoist
from gcpatch.networks import lowering


def _weights(seed=0):
    rng = np.random.default_rng(seed)
    return {"kernel": rng.normal(size=(3, 3, 4, 6)), "bias": rng.normal(size=6)}


def _loss(weights, image, scale):
    maps = lax.conv_general_dilated(
        image, weights["kernel"], (1, 1), "SAME", dimension_numbers=lowering.DIMENSIONS
    )
    return jnp.sum(jnp.tanh(maps + jnp.exp(weights["bias"])) ** 2) * scale


def _program(weights, images, scale):
    by_image = jax.vmap(jax.value_and_grad(_loss, argnums=1), (None, 0, None))
    return {"found": by_image(weights, images[:, None], scale), "constant": 3.0, "as is": images}


def _images(seed=1):
    return np.random.default_rng(seed).normal(size=(2, 5, 7, 4))


def _names(function, *inputs):
    return [equation.primitive.name for equation in jax.make_jaxpr(function)(*inputs).eqns]


def test_a_program_in_two_parts_is_the_program():
    known, unknown = hoist(_program, _weights(5), _images(6), 0.1)
    weights, images = _weights(), _images()
    found = jax.jit(unknown)(jax.jit(known)(weights), weights, images, 2.0)
    wanted = jax.jit(_program)(weights, images, 2.0)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), found, wanted)
    assert np.ptp(found["found"][1]) > 0


def test_what_the_weights_decide_is_known():
    weights, images = _weights(), _images()
    known, unknown = hoist(_program, weights, images, 1.0)
    assert {"rev", "transpose", "exp"} <= {*_names(known, weights)}
    rest = _names(unknown, known(weights), weights, images, 1.0)
    assert "conv_general_dilated" in rest
    assert not {"rev", "exp"} & {*rest}
    assert {"rev", "exp"} <= {*_names(_program, weights, images, 1.0)}


def test_nothing_known_is_larger_than_what_it_comes_from():
    weights, images = {"bias": np.ones(6)}, _images()

    def program(weights, images):
        return jnp.broadcast_to(weights["bias"] * 2, (100, 6)) + images.sum()

    known, unknown = hoist(program, weights, images)
    assert [found.shape for found in known(weights)] == [(6,)]
    np.testing.assert_allclose(
        unknown(known(weights), weights, images), program(weights, images), rtol=1e-6
    )
