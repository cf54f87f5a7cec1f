from math import log

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import BinaryCrossEntropy, Dice, Focal
from tests.support.arrays import normal


def test_dice_matches_a_case_worked_by_hand():
    # p = ½ ½, off by -½ and ½; D = ½ + 1 + 1, so l = ½ / 2.5.
    value, kept = Dice().forward(jnp.zeros((1, 2)), jnp.array([[1, 0]]))
    assert float(value) == pytest.approx(0.2)
    chex.assert_trees_all_close(Dice().backward(kept), jnp.array([[-0.12, 0.08]]), rtol=1e-6)


def test_an_empty_mask_that_was_found_empty_costs_nothing():
    value, kept = Dice().forward(jnp.full((1, 5, 5), -40.0), jnp.zeros((1, 5, 5)))
    assert value < 1e-12
    assert not np.isnan(Dice().backward(kept)).any()


def test_a_mask_that_was_missed_costs_one():
    value, _ = Dice(1e-6).forward(jnp.where(jnp.arange(4) < 2, -40.0, 40.0)[None], jnp.array([[1, 1, 0, 0]]))
    assert float(value) == pytest.approx(1, rel=1e-5)


def test_focal_matches_a_case_worked_by_hand():
    # The wrong class has probability ½, so u = log 2; c = ½ (½ log 2 + ½).
    value, kept = Focal(focus=1.0).forward(jnp.zeros((1, 2)), jnp.array([[1, 0]]))
    assert float(value) == pytest.approx(log(2))
    c = (log(2) + 1) / 4
    chex.assert_trees_all_close(Focal(focus=1.0).backward(kept), jnp.array([[-c, c]]), rtol=1e-6)


def test_balance_weighs_the_classes():
    loss = Focal(0.0, balance=0.25)
    value, kept = loss.forward(jnp.zeros((1, 2)), jnp.array([[1, 0]]))
    assert float(value) == pytest.approx(log(2))
    chex.assert_trees_all_close(loss.backward(kept), jnp.array([[-0.125, 0.375]]))


def test_without_focus_it_is_the_cross_entropy():
    z, y = normal(4, 3), (normal(4, 3, seed=1) > 0).astype(int)
    np.testing.assert_allclose(Focal(0.0).forward(z, y)[0], BinaryCrossEntropy().forward(z, y)[0], rtol=1e-6)
    chex.assert_trees_all_equal(Focal().metrics(z, y), BinaryCrossEntropy().metrics(z, y))


def test_extreme_logits_give_finite_losses_and_gradients():
    z, y = jnp.array([[1e4, -1e4, 1e4, -1e4]]), jnp.array([[1, 0, 0, 1]])
    for loss in (Focal(), Focal(0.5, 0.25), Dice()):
        value, kept = loss.forward(z, y)
        chex.assert_tree_all_finite((value, loss.backward(kept), loss.hessian(kept, z)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dice(0.0), "positive epsilon, not 0"),
        (lambda: Focal(-1.0), r"Focal\(focus=-1.0\): expected focus >= 0"),
        (lambda: Focal(balance=2.0), "a balance between 0 and 1"),
        (lambda: Focal().forward(jnp.ones((1, 1)), jnp.array([[0.5]])), "expected targets 0 and 1, got values between"),
        (lambda: Dice().forward(jnp.ones((1, 1)), jnp.array([[2.0]])), r"Dice\(\): expected targets between 0 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
