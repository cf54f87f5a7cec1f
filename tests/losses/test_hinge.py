import chex
import jax.numpy as jnp
import pytest

from jaxbp import Hinge


def test_hinge_matches_a_case_worked_by_hand():
    scores, targets = jnp.array([[2.0, 0.5, 3.0]]), jnp.array([[1, 1, -1]])
    value, kept = Hinge().forward(scores, targets)
    assert value == 0 + 0.5 + 4
    chex.assert_trees_all_equal(Hinge().backward(kept), jnp.array([[0.0, -1.0, 1.0]]))
    assert Hinge(3.0).forward(scores, targets)[0] == 1 + 2.5 + 6
    chex.assert_trees_all_close(Hinge().metrics(scores, targets)["accuracy"], jnp.array([2 / 3]))


def test_targets_zero_and_one_are_refused_and_the_remedy_named():
    with pytest.raises(ValueError, match=r"Hinge\(\): expected targets -1 and 1, got 0; of y = 0 and 1 make 2 y - 1"):
        Hinge().forward(jnp.ones((2, 1)), jnp.array([[0], [1]]))


def test_a_margin_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"Hinge needs a positive margin, not 0"):
        Hinge(0.0)
