import chex
import jax.numpy as jnp
import pytest

from jaxbp import HalfSquaredError, Huber, MeanSquaredError, Quantile
from tests.support.arrays import normal
from tests.support.loss_oracle import assert_gradient_is_that_of_jax_grad

ALL = [HalfSquaredError(), MeanSquaredError(), Huber(0.3), Quantile(0.2)]
OUTPUTS, TARGETS = normal(4, 3), normal(4, 3, seed=1)


@pytest.mark.parametrize("loss", ALL, ids=str)
def test_outputs_may_have_more_axes_or_none(loss):
    assert_gradient_is_that_of_jax_grad(loss, normal(2, 3, 2), normal(2, 3, 2, seed=1))
    assert_gradient_is_that_of_jax_grad(loss, normal(4), normal(4, seed=1))


@pytest.mark.parametrize(
    ("loss", "value", "gradient"),
    [  # differences [3, -1] and [0, 2]
        (HalfSquaredError(), (5 + 2) / 2, [[1.5, -0.5], [0, 1]]),
        (MeanSquaredError(), (5 + 2) / 2, [[1.5, -0.5], [0, 1]]),
        (Huber(2.0), (4 + 0.5 + 2) / 2, [[1, -0.5], [0, 1]]),
        (Quantile(0.25), (2.25 + 0.25 + 1.5) / 2, [[0.375, -0.125], [0.375, 0.375]]),
        (Quantile((0.25, 0.5)), (2.25 + 0.5 + 1) / 2, [[0.375, -0.25], [0.375, 0.25]]),
    ],
    ids=str,
)
def test_losses_match_a_case_worked_by_hand(loss, value, gradient):
    outputs, targets = jnp.array([[4.0, 0.0], [5.0, 3.0]]), jnp.array([[1.0, 1.0], [5.0, 1.0]])
    ours, residuals = loss.forward(outputs, targets)
    assert ours == value
    chex.assert_trees_all_equal(loss.backward(residuals), jnp.array(gradient))


def test_weights_are_relative_to_their_sum():
    loss = HalfSquaredError()
    outputs, targets, weights = jnp.array([[2.0], [4.0]]), jnp.zeros((2, 1)), jnp.array([3.0, 1.0])
    value, residuals = loss.forward(outputs, targets, weights)
    assert value == (3 * 2 + 1 * 8) / 4
    chex.assert_trees_all_equal(loss.backward(residuals), jnp.array([[1.5], [1.0]]))


def test_a_part_of_a_batch_may_be_divided_by_the_weight_of_the_whole():
    loss = HalfSquaredError()
    value, residuals = loss.forward(jnp.array([[2.0]]), jnp.zeros((1, 1)), total=jnp.array(4.0))
    assert value == 0.5
    chex.assert_trees_all_equal(loss.backward(residuals), jnp.array([[0.5]]))


def test_integer_targets_are_numbers_too():
    assert HalfSquaredError().forward(jnp.array([[3.0]]), jnp.array([[1]]))[0] == 2


def test_targets_of_another_shape_are_refused_rather_than_broadcast():
    with pytest.raises(ValueError, match=r"targets shaped like the outputs float32\[4, 1\], got float32\[4\]"):
        HalfSquaredError().forward(normal(4, 1), normal(4))


def test_targets_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match=r"targets float32\[1, 2\] are not all finite"):
        MeanSquaredError().forward(jnp.ones((1, 2)), jnp.array([[0.0, jnp.nan]]))


def test_integer_outputs_are_refused():
    with pytest.raises(TypeError, match=r"floating-point outputs, got int32\[2, 1\]"):
        HalfSquaredError().forward(jnp.ones((2, 1), jnp.int32), jnp.ones((2, 1)))


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match=r"at least one example, got outputs float32\[0, 3\]: an empty batch\?"):
        HalfSquaredError().forward(jnp.ones((0, 3)), jnp.ones((0, 3)))


def test_weights_must_be_one_an_example():
    with pytest.raises(ValueError, match=r"one weight for each of 4 examples, got float32\[3\]"):
        HalfSquaredError().forward(OUTPUTS, TARGETS, jnp.ones(3))


def test_weights_that_add_up_to_zero_are_refused():
    with pytest.raises(ValueError, match=r"no example counts: the weights add up to 0"):
        HalfSquaredError().forward(OUTPUTS, TARGETS, jnp.zeros(4))


def test_a_threshold_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"Huber needs a positive threshold, not 0"):
        Huber(0.0)


@pytest.mark.parametrize("level", [0.0, 1.0, (0.5, 2.0), ()])
def test_a_quantile_outside_zero_to_one_is_refused(level):
    with pytest.raises(ValueError, match=r"Quantile needs levels between 0 and 1, not"):
        Quantile(level)


def test_levels_of_another_number_than_outputs_are_refused():
    with pytest.raises(ValueError, match=r"expected one output for each level, got outputs float32\[4, 3\]"):
        Quantile((0.1, 0.9)).forward(OUTPUTS, TARGETS)


def test_the_best_constant_is_the_quantile():
    targets, loss = jnp.arange(10.0)[:, None], Quantile(0.3)
    values = [loss.forward(jnp.full((10, 1), c), targets)[0] for c in (1.5, 2.5, 3.5)]
    assert values[1] < min(values[0], values[2])
