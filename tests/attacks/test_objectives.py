"""A name, the function behind it, and an `Objective` mean the same; a shared name means nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tinies import FLAT

from gcpatch.attacks.objectives import (
    OBJECTIVES,
    Objective,
    ObjectiveError,
    as_objective,
    fooled_explanation,
)
from gcpatch.attacks.regions import Patch
from gcpatch.attacks.settings import Attack, AttackError
from gcpatch.attacks.step import init_state, make_problem, step
from gcpatch.losses import Evidence


def hide(evidence: Evidence):
    """Somebody's own function, which happens to have this name."""
    return evidence.heat.mean()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_name_its_function_and_the_objective_are_one(name):
    known = OBJECTIVES[name]
    for given in (name, known.loss, known):
        assert as_objective(given) is known
        assert Attack(objective=given) == Attack(objective=name)
    assert known.name == name


def test_a_function_of_ones_own_is_not_judged_by_its_name():
    own = as_objective(hide)
    assert (own.shortfall, own.fooled) == (None, None)
    assert own.name == f"{__name__}:hide"  # a record tells the two apart
    assert fooled_explanation(own.name, 0.0, False) is None
    assert fooled_explanation("hide", 0.0, False) is True


def test_an_objective_of_ones_own_brings_its_goal():
    own = Objective(hide, shortfall=lambda evidence: 0.0, fooled=lambda energy, points: points)
    assert Attack(objective=own).objective is own


def test_an_unknown_name_lists_the_others():
    with pytest.raises(ObjectiveError, match="no objective 'shine'; choose one of hide, highlight"):
        as_objective("shine")


def test_what_is_neither_a_name_nor_a_function_is_refused_at_once():
    with pytest.raises(AttackError, match="the objective is 3; give a name or a function"):
        Attack(objective=3)


@pytest.mark.parametrize(
    "name, energy, points, fooled",
    [
        ("hide", 0.05, True, True),
        ("hide", 0.051, False, False),
        ("subramanya", 0.04, True, True),
        ("highlight", 0.5, True, True),
        ("highlight", 0.5, False, False),
        ("highlight", 0.49, True, False),
        ("paper", 0.6, True, True),
        ("classify", 0.0, False, None),
        ("keep", 0.0, False, None),
    ],
)
def test_what_counts_as_fooled(name, energy, points, fooled):
    assert fooled_explanation(name, energy, points) is fooled


def test_any_optax_transformation_is_an_optimiser(flat):
    schedule = optax.chain(optax.sign_sgd(0.25), optax.scale(0.5))
    how = Attack(objective=lambda evidence: evidence.tile.sum(), optimizer=schedule, ce_weight=0.0)
    image = np.random.default_rng(0).random((FLAT, FLAT, 3), np.float32)
    problem = make_problem(
        flat, image, 0, Attack(), placement=Patch(2).place(FLAT, FLAT), key=jax.random.key(0)
    )
    state, _ = step(flat, init_state(flat, problem, (2, 2), how), problem, how)
    np.testing.assert_allclose(jnp.abs(state.noise), 0.125, rtol=1e-6)
    assert how.describe()["optimizer"] == "an optax transformation of one's own"
    with pytest.raises(AttackError, match="brings its own; leave it out"):
        Attack(optimizer=schedule, learning_rate=0.1)
