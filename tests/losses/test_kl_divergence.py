from math import log

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import KLDivergence, SoftmaxCrossEntropy
from tests.support.arrays import normal

Z, P = normal(4, 2, 3), jax.nn.softmax(normal(4, 2, 3, seed=1))


def test_the_divergence_matches_a_case_worked_by_hand():
    value, kept = KLDivergence().forward(jnp.array([[0.0, log(3)]]), jnp.array([[0.5, 0.5]]))  # a = [1/4, 3/4]
    assert float(value) == pytest.approx((log(2) + log(2 / 3)) / 2)
    chex.assert_trees_all_close(KLDivergence().backward(kept), jnp.array([[-0.25, 0.25]]), rtol=1e-6)


def test_it_is_zero_where_the_model_is_right_and_its_gradient_is_the_cross_entropys():
    value, kept = KLDivergence().forward(jnp.log(P) + 7, P)
    assert abs(value) < 1e-6
    np.testing.assert_allclose(KLDivergence().backward(kept), 0, atol=1e-7)
    gradients = [loss.backward(loss.forward(Z, P)[1]) for loss in (KLDivergence(), SoftmaxCrossEntropy())]
    chex.assert_trees_all_equal(*gradients)


def test_log_probabilities_are_logits_too():
    values = [KLDivergence().forward(z, P)[0] for z in (Z, jax.nn.log_softmax(Z))]
    np.testing.assert_allclose(*values, rtol=1e-6)


def test_labels_are_refused_and_the_remedy_named():
    with pytest.raises(ValueError, match=r"distributions shaped like .* got int32\[4, 2\]; .* use SoftmaxCrossEntropy"):
        KLDivergence().forward(Z, jnp.zeros((4, 2), int))


def test_negative_probabilities_are_refused():
    with pytest.raises(ValueError, match="expected target probabilities, got negative numbers"):
        KLDivergence().forward(Z, -P)
