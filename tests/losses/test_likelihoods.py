from math import log

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import GaussianNLL, Poisson
from tests.support.arrays import normal


def test_poisson_matches_a_case_worked_by_hand():
    value, kept = Poisson().forward(jnp.array([[0.0, log(2)]]), jnp.array([[1, 3]]))  # rates 1 and 2
    assert float(value) == pytest.approx(1 + 2 - 3 * log(2))
    chex.assert_trees_all_close(Poisson().backward(kept), jnp.array([[0.0, -1.0]]), atol=1e-6)
    chex.assert_trees_all_close(Poisson().hessian(kept, jnp.ones((1, 2))), jnp.array([[1.0, 2.0]]))


def test_the_gaussian_matches_a_case_worked_by_hand():
    outputs = jnp.array([[3.0]]), jnp.array([[log(4)]])  # off by 2, at a deviation of 2
    value, kept = GaussianNLL().forward(outputs, jnp.array([[1.0]]))
    assert float(value) == pytest.approx((log(4) + 1) / 2)
    chex.assert_trees_all_close(GaussianNLL().backward(kept), (jnp.array([[0.5]]), jnp.array([[0.0]])), atol=1e-7)
    fisher = GaussianNLL().hessian(kept, (jnp.ones((1, 1)), jnp.ones((1, 1))))
    chex.assert_trees_all_close(fisher, (jnp.array([[0.25]]), jnp.array([[0.5]])))


def test_the_gaussian_of_variance_one_is_half_the_squared_error():
    m, y = normal(4, 3), normal(4, 3, seed=1)
    value, _ = GaussianNLL().forward((m, jnp.zeros((4, 3))), y)
    np.testing.assert_allclose(value, jnp.sum((m - y) ** 2) / 8, rtol=1e-6)


def test_counts_below_zero_are_refused():
    with pytest.raises(ValueError, match=r"Poisson\(\): expected counts, 0 or more, got -1"):
        Poisson().forward(jnp.ones((2, 1)), jnp.array([[3], [-1]]))


def test_targets_of_the_gaussian_are_shaped_like_the_mean():
    with pytest.raises(ValueError, match=r"targets shaped like the outputs float32\[4, 3\], got float32\[4\]"):
        GaussianNLL().forward((normal(4, 3), normal(4, 3)), normal(4))
