"""Programs evaluated equation by equation."""

import jax
import jax.numpy as jnp
import numpy as np

from gcpatch.interpreters.jaxpr import bind, evaluate, is_relu, jaxprs_inside, trace
from gcpatch.networks.lowering import conv

X = jnp.asarray([-2.0, 0.5, 3.0])


def test_evaluated_as_jax_does_a_program_is_itself():
    def program(x, y):
        return jax.jit(jnp.sin)(x) * jax.nn.relu(y), y + np.arange(3.0), x

    closed = jax.make_jaxpr(program)(X, -X)
    for found, wanted in zip(evaluate(closed, [X, -X]), program(X, -X), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_bind_of_one_s_own_meets_each_equation_once_and_in_order():
    closed, names = jax.make_jaxpr(lambda x: jnp.sin(x) + 2 * x)(X), []

    def noting(equation, values):
        names.append(equation.primitive.name)
        return [value + 1 for value in bind(equation, values)]

    (found,) = evaluate(closed, [X], noting)
    assert names == [equation.primitive.name for equation in closed.eqns]
    np.testing.assert_allclose(found, jnp.sin(X) + 1 + 2 * X + 1 + 1, rtol=1e-6)


def test_relu_is_told_from_what_is_like_it():
    @jax.custom_jvp
    def custom(x):
        return jnp.maximum(x, 0)

    custom.defjvps(lambda dot, out, x: dot)
    functions = (jax.nn.relu, jax.nn.softplus, custom, lambda x: jnp.maximum(x, 0))
    found = [any(map(is_relu, jax.make_jaxpr(function)(X).eqns)) for function in functions]
    assert found == [True, False, False, False]


def test_programs_inside_equations():
    (equation,) = jax.make_jaxpr(lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x))(X).eqns[-1:]
    inside = [[e.primitive.name for e in jaxpr.eqns] for jaxpr in jaxprs_inside(equation)]
    assert sorted(inside) == [["cos"], ["sin"]]


def test_a_traced_layer_is_one_primitive_whatever_the_platform():
    def layer(kernel, image):
        return conv(image, kernel, (1, 1), ((0, 0), (0, 0)))

    closed = trace(layer, jnp.ones((1, 1, 3, 2)), shape=(4, 5, 3))
    assert [equation.primitive.name for equation in closed.eqns] == ["conv_general_dilated"]
    assert closed.out_avals[0].shape == (1, 4, 5, 2)
