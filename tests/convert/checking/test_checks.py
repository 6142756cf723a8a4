"""What gcpatch checks of a network that PyTorch has not, and that each check notices its fault."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")

import gcpatch
from convert.checking.checks import check
from convert.checking.comparison import first_difference
from gcpatch.errors import UserError
from gcpatch.interpreters.incremental import Incremental
from gcpatch.networks import Network

SIDE = 14
WEIGHTS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def adapted(trunk=None, head=None):
    return gcpatch.adapt(
        (trunk or (lambda x: jnp.tanh(x @ WEIGHTS)), head or (lambda a: a.mean((-3, -2)))),
        categories=tuple("abcd"),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        size=SIDE,
        name="own",
    )


def pictures():
    return np.random.default_rng(1).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)


def found(network):
    row = first_difference(check(network, pictures(), "float32"))
    return row and row.quantity


def test_a_network_that_agrees_with_itself():
    rows = check(adapted(), pictures(), "float32")
    assert first_difference(rows) is None
    assert [row.quantity for row in rows] == [
        "logits are finite",
        "logits of trunk and head",
        "map below a patch, incrementally",
        "gradient beside finite differences",
    ]
    assert {row.network for row in rows} == {"own"}


def test_other_networks_in_float64(tiny):
    images = np.random.default_rng(1).integers(0, 256, (1, 28, 28, 3), np.uint8)
    with jax.enable_x64(True):
        assert first_difference(check(tiny, images, "float64")) is None


def test_logits_that_are_not_finite():
    assert found(adapted(head=lambda a: jnp.log(-1 - a.mean((-3, -2)) ** 2))) == "logits are finite"


def test_a_head_that_is_not_the_rest_of_the_network(monkeypatch):
    split = Network.split

    def wrong(self, layer=None):
        trunk, head = split(self, layer)
        return trunk, lambda value: head(value) * 1.01

    network = adapted()
    monkeypatch.setattr(type(network), "split", wrong)
    assert found(network) == "logits of trunk and head"


def test_a_patch_in_another_place(monkeypatch):
    run = Incremental.run
    monkeypatch.setattr(Incremental, "run", lambda self, *given: run(self, *given)[::-1])
    assert found(adapted()) == "map below a patch, incrementally"


def test_a_derivative_that_is_wrong():
    @jax.custom_jvp
    def curve(x):
        return jnp.tanh(x)

    curve.defjvp(lambda primals, tangents: (jnp.tanh(*primals), tangents[0]))
    assert found(adapted(lambda x: curve(x @ WEIGHTS))) == "gradient beside finite differences"


def test_a_program_in_float32_is_not_computed_in_float64():
    with pytest.raises(UserError, match="own is a program in float32"):
        check(adapted(), pictures(), "float64")
