from math import log

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import BinaryCrossEntropy, SoftmaxCrossEntropy
from tests.support.arrays import labels, normal
from tests.support.loss_oracle import assert_gradient_is_that_of_jax_grad

LOGITS, WEIGHTS = 2 * normal(4, 3), jnp.array([1.0, 0.0, 2.0, 0.5])
SOFT = jax.nn.softmax(normal(4, 3, seed=1))
ONE_HOT = jax.nn.one_hot(labels(4, 3), 3)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(
    "targets", [labels(4, 3), ONE_HOT, SOFT, 3 * SOFT], ids=["labels", "one-hot", "soft", "unnormalised"]
)
def test_the_gradient_of_the_softmax_cross_entropy_is_that_of_jax_grad(targets, weights, smoothing):
    assert_gradient_is_that_of_jax_grad(SoftmaxCrossEntropy(smoothing), LOGITS, targets, weights)


@pytest.mark.parametrize("ignored", [-1, 1, 255])
def test_the_gradient_with_an_ignored_label_is_that_of_jax_grad(ignored):
    targets = jnp.array([0, ignored, 2, ignored])
    assert_gradient_is_that_of_jax_grad(SoftmaxCrossEntropy(0.1, ignored), LOGITS, targets)


@pytest.mark.parametrize("targets", [labels(4, 2)[:, None], normal(4, 1) ** 2 % 1], ids=["classes", "probabilities"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_the_gradient_of_the_binary_cross_entropy_is_that_of_jax_grad(targets, weights):
    assert_gradient_is_that_of_jax_grad(BinaryCrossEntropy(), normal(4, 1), targets, weights)


def test_a_sequence_of_labels_counts_each_label_as_one():
    loss, logits = SoftmaxCrossEntropy(ignored_label=-1), normal(2, 3, 3)
    targets = jnp.array([[0, 1, 2], [2, -1, -1]])
    assert_gradient_is_that_of_jax_grad(loss, logits, targets, jnp.array([1.0, 3.0]))
    flat = jnp.array([[0, 1, 2, 2]])
    both = jnp.concatenate([logits[0], logits[1, :1]])[None]
    chex.assert_trees_all_close(loss.forward(logits, targets)[0], loss.forward(both, flat)[0], rtol=1e-6)


def test_softmax_cross_entropy_matches_a_case_worked_by_hand():
    logits = jnp.array([[0.0, log(3)], [log(4), log(4)]])  # a = [1/4, 3/4], [1/2, 1/2]
    value, residuals = SoftmaxCrossEntropy().forward(logits, jnp.array([0, 1]))
    assert float(value) == pytest.approx((log(4) + log(2)) / 2)
    delta = SoftmaxCrossEntropy().backward(residuals)
    chex.assert_trees_all_close(delta, jnp.array([[-0.375, 0.375], [0.25, -0.25]]), rtol=1e-6)  # (a - y) / 2


def test_binary_cross_entropy_matches_a_case_worked_by_hand():
    value, residuals = BinaryCrossEntropy().forward(jnp.array([[0.0, log(3)]]), jnp.array([[1, 0]]))
    assert float(value) == pytest.approx(log(2) + log(4))
    chex.assert_trees_all_close(BinaryCrossEntropy().backward(residuals), jnp.array([[-0.5, 0.75]]), rtol=1e-6)


def test_smoothing_trains_on_the_label_mixed_with_all_classes():
    smooth, targets = SoftmaxCrossEntropy(smoothing=0.3), labels(4, 3)
    mixed = 0.7 * jax.nn.one_hot(targets, 3) + 0.1
    (a, kept), (b, expected) = smooth.forward(LOGITS, targets), SoftmaxCrossEntropy().forward(LOGITS, mixed)
    chex.assert_trees_all_close(a, b, rtol=1e-6)
    chex.assert_trees_all_close(smooth.backward(kept), SoftmaxCrossEntropy().backward(expected), atol=1e-7)


def test_an_ignored_label_is_as_if_its_example_were_not_there():
    loss, targets = SoftmaxCrossEntropy(ignored_label=-1), jnp.array([2, -1, 0, -1])
    value, residuals = loss.forward(LOGITS, targets)
    there, kept = loss.forward(LOGITS[::2], targets[::2])
    chex.assert_trees_all_close(value, there, rtol=1e-6)
    gradient = loss.backward(residuals)
    chex.assert_trees_all_close(gradient[::2], loss.backward(kept), rtol=1e-6)
    assert not gradient[1::2].any()


EXTREME = jnp.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4], [-1e4, 0.0, 1e4]])


@pytest.mark.parametrize("targets", [jnp.array([1, 0, 2, 0]), SOFT], ids=["labels", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_cross_entropy_of_extreme_logits_is_finite(targets, smoothing):
    value, residuals = SoftmaxCrossEntropy(smoothing).forward(EXTREME, targets)
    chex.assert_tree_all_finite((value, SoftmaxCrossEntropy(smoothing).backward(residuals)))
    with jax.enable_x64(True):
        true, _ = SoftmaxCrossEntropy(smoothing).forward(EXTREME.astype(float), targets)
    np.testing.assert_allclose(value, true, rtol=1e-5)


def test_binary_cross_entropy_of_extreme_logits_is_finite_and_exact():
    value, residuals = BinaryCrossEntropy().forward(EXTREME[:1], jnp.array([[0.0, 1.0, 0.5]]))
    assert float(value) == pytest.approx(2e4 + log(2))
    chex.assert_trees_all_equal(BinaryCrossEntropy().backward(residuals), jnp.array([[1.0, -1.0, 0.0]]))


@pytest.mark.parametrize(("label", "logits"), [(3, LOGITS), (-1, LOGITS)])
def test_a_label_out_of_range_is_named_with_both_shapes(label, logits):
    with pytest.raises(ValueError, match=rf"label {label} is out of range: outputs float32\[4, 3\] have 3 classes"):
        SoftmaxCrossEntropy().forward(logits, jnp.array([0, 1, label, 2]))


@pytest.mark.parametrize("label", [3, -1])
def test_under_jit_a_label_out_of_range_gives_a_loss_that_is_no_number(label):
    value = jax.jit(lambda targets: SoftmaxCrossEntropy().forward(LOGITS, targets)[0])(jnp.array([0, 1, label, 2]))
    assert jnp.isnan(value)


def test_float_labels_are_refused_where_integers_are_needed():
    with pytest.raises(TypeError, match=r"integer labels for outputs float32\[4, 3\], got float32\[4\].*astype\(int\)"):
        SoftmaxCrossEntropy().forward(LOGITS, jnp.zeros(4))


def test_labels_of_another_shape_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"outputs float32\[4, 3\] expected labels \[4\] .* got targets int32\[4, 1\]"):
        SoftmaxCrossEntropy().forward(LOGITS, labels(4, 3)[:, None])


def test_negative_probabilities_are_refused():
    with pytest.raises(ValueError, match="negative numbers or NaN"):
        SoftmaxCrossEntropy().forward(LOGITS, -SOFT)


def test_binary_targets_outside_zero_to_one_are_refused():
    with pytest.raises(ValueError, match=r"between 0 and 1, got values from 0\.0 to 2\.0"):
        BinaryCrossEntropy().forward(jnp.ones((2, 1)), jnp.array([[0.0], [2.0]]))


def test_only_ignored_labels_are_an_error():
    with pytest.raises(ValueError, match="no example counts"):
        SoftmaxCrossEntropy(ignored_label=-1).forward(LOGITS, jnp.full(4, -1))


def test_under_jit_a_batch_of_ignored_labels_costs_nothing_and_teaches_nothing():
    loss = SoftmaxCrossEntropy(ignored_label=-1)
    value, residuals = jax.jit(loss.forward)(LOGITS, jnp.full(4, -1))
    assert value == 0
    assert not loss.backward(residuals).any()


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_outside_zero_to_one_is_refused(smoothing):
    with pytest.raises(ValueError, match=f"0 <= smoothing < 1, not {smoothing}"):
        SoftmaxCrossEntropy(smoothing)


def test_accuracy_is_the_share_of_the_largest_logit_at_the_label():
    logits = jnp.array([[1.0, 2.0], [2.0, 1.0]])
    assert SoftmaxCrossEntropy().metrics(logits, jnp.array([1, 1]))["accuracy"].tolist() == [1, 0]
    assert SoftmaxCrossEntropy().metrics(logits, jax.nn.one_hot(jnp.array([1, 1]), 2))["accuracy"].tolist() == [1, 0]
    assert BinaryCrossEntropy().metrics(jnp.array([[2.0], [1.0]]), jnp.array([[1], [0]]))["accuracy"].tolist() == [1, 0]
