"""Scores by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from gcpatch.explainers.scores import log_softmax, logit, margin

LOGITS = jnp.log(jnp.asarray([0.5, 0.2, 0.3]))


def test_by_hand():
    np.testing.assert_allclose(logit(LOGITS, 1), np.log(0.2), rtol=1e-6)
    np.testing.assert_allclose(log_softmax(LOGITS + 7, 1), np.log(0.2), rtol=1e-5)
    np.testing.assert_allclose(margin(LOGITS, 0), np.log(0.5 / 0.3), rtol=1e-6)
    np.testing.assert_allclose(margin(LOGITS, 1), np.log(0.2 / 0.5), rtol=1e-6)


def test_gradients_by_hand():
    np.testing.assert_array_equal(jax.grad(margin)(LOGITS, 1), [-1, 1, 0])
    np.testing.assert_allclose(jax.grad(log_softmax)(LOGITS, 1), [-0.5, 0.8, -0.3], rtol=1e-5)
    many = jax.jit(jax.vmap(margin, (None, 0)))(LOGITS, jnp.arange(3))
    np.testing.assert_allclose(many, [margin(LOGITS, c) for c in range(3)], rtol=1e-6)
