"""The protocol: weights, reductions, totals, measures, and what is refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import HalfSquaredError, Loss, Reduction, SoftmaxCrossEntropy
from jaxbp.losses.base import require_independent_loss
from tests.support.arrays import labels, normal

Z, Y = normal(4, 3), normal(4, 3, seed=1)
SEQUENCE, TOKENS = normal(4, 2, 3), jnp.array([[0, 2], [1, -1], [2, 0], [1, 0]])
SIGNED = jnp.array([1.0, -2.0, 0.5, -0.5])
HALF, LABELS = HalfSquaredError(), SoftmaxCrossEntropy(ignored_label=-1)


def gradient(loss, *arguments):
    value, kept = loss.forward(*arguments)
    return value, loss.backward(kept)


def test_weights_may_be_one_an_example_or_one_a_label():
    by_example = jnp.array([1.0, 2.0, 0.0, 3.0])
    by_label = jnp.broadcast_to(by_example[:, None], (4, 2))
    chex.assert_trees_all_equal(
        gradient(LABELS, SEQUENCE, TOKENS, by_example), gradient(LABELS, SEQUENCE, TOKENS, by_label)
    )


def test_a_label_of_weight_zero_is_as_if_it_were_ignored():
    ignored = TOKENS.at[0, 1].set(-1)
    weights = jnp.ones((4, 2)).at[0, 1].set(0)
    spoilt = SEQUENCE.at[0, 1].set(jnp.nan)
    chex.assert_trees_all_close(gradient(LABELS, spoilt, TOKENS, weights), gradient(LABELS, SEQUENCE, ignored))


@pytest.mark.parametrize("loss", [HALF, jaxbp.SumOfLosses([(HALF, 1.0)])], ids=str)
def test_a_missing_target_of_weight_zero_is_not_looked_at(loss):
    weights, missing = jnp.array([1.0, 0.0, 2.0, 0.5]), Y.at[1, 2].set(jnp.nan)
    outputs, missing, there = ((Z,), (missing,), (Y,)) if loss is not HALF else (Z, missing, Y)
    chex.assert_trees_all_equal(gradient(loss, outputs, missing, weights), gradient(loss, outputs, there, weights))
    chex.assert_trees_all_equal(loss.measure(outputs, missing, weights), loss.measure(outputs, there, weights))


def test_weights_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"one weight for each of 4 examples, or for each label \[4, 2\], got float32"):
        LABELS.forward(SEQUENCE, TOKENS, jnp.ones((4, 3)))


@pytest.mark.parametrize(
    ("reduction", "value", "slope"),
    [  # losses 2, 8, 18, 0 with weights 1, 2, 1, 0
        (Reduction.MEAN_OVER_WEIGHTS, 36 / 4, [0.5, 2, 1.5, 0]),
        (Reduction.MEAN_OVER_EXAMPLES, 36 / 4, [0.5, 2, 1.5, 0]),
        (Reduction.SUM, 36, [2, 8, 6, 0]),
    ],
    ids=str,
)
def test_reductions_match_a_case_worked_by_hand(reduction, value, slope):
    outputs, weights = jnp.array([[2.0], [4.0], [6.0], [0.0]]), jnp.array([1.0, 2.0, 1.0, 0.0])
    found, g = gradient(HalfSquaredError(reduction=reduction), outputs, jnp.zeros((4, 1)), weights)
    assert found == value
    chex.assert_trees_all_equal(g[:, 0], jnp.array(slope))


def test_the_mean_over_examples_counts_labels_that_are_not_ignored():
    loss = SoftmaxCrossEntropy(ignored_label=-1, reduction=Reduction.MEAN_OVER_EXAMPLES)
    sum_ = SoftmaxCrossEntropy(ignored_label=-1, reduction=Reduction.SUM)
    np.testing.assert_allclose(
        7 * loss.forward(SEQUENCE, TOKENS, SIGNED)[0], sum_.forward(SEQUENCE, TOKENS, SIGNED)[0], rtol=1e-6
    )


@pytest.mark.parametrize(
    "weights", [SIGNED, jnp.array([0.1, 0.2, -0.3, 0]), -jnp.ones(4)], ids=["sign", "zero", "negative"]
)
def test_weights_whose_mean_can_not_be_taken_are_refused_and_the_remedy_named(weights):
    with pytest.raises(ValueError, match=r"the weights add up to .* reduction=Reduction\.MEAN_OVER_EXAMPLES"):
        HALF.forward(Z, Y, weights)
    value, kept = jax.jit(HALF.forward)(Z, Y, weights)
    assert np.isnan(value)
    assert np.isnan(HALF.backward(kept)).all()


def test_under_jit_a_batch_of_padding_costs_nothing_and_teaches_nothing():
    value, kept = jax.jit(HALF.forward)(Z * jnp.nan, Y, jnp.zeros(4))
    assert value == 0
    assert not HALF.backward(kept).any()


def test_a_root_of_negative_weights_is_refused_and_under_jit_not_a_number():
    loss = HalfSquaredError(reduction=Reduction.SUM)
    for root in (lambda kept: loss.hessian_root(kept, Z), loss.empirical_root):
        with pytest.raises(ValueError, match=r"negative weight gives a Hessian that has no root"):
            root(loss.forward(Z, Y, SIGNED)[1])
        found = jax.jit(lambda w, root=root: root(loss.forward(Z, Y, w)[1]))(SIGNED)
        assert np.isnan(found).any(1).tolist() == [False, True, False, True]
    assert jnp.isfinite(loss.hessian(loss.forward(Z, Y, SIGNED)[1], Z)).all()


@pytest.mark.parametrize("total", [0.0, -1.0])
def test_a_total_that_is_not_positive_is_refused(total):
    with pytest.raises(ValueError, match=rf"positive total to divide by, got {total}"):
        HALF.forward(Z, Y, total=jnp.array(total))


@pytest.mark.parametrize(
    ("loss", "outputs", "message"),
    [
        (HALF, (Z, Z), r"HalfSquaredError\(\): expected an array of floating-point outputs, got \(float32\[4, 3\], .*"),
        (HALF, {"a": Z}, r"expected an array .* got \{a: float32\[4, 3\]\}; use SumOfLosses .* Select\(\.\.\.\)"),
        (jaxbp.GaussianNLL(), Z, r"expected arrays \(mean, log_variance\) of floating-point outputs, got float32"),
        (jaxbp.GaussianNLL(), (Z, Z, Z), r"expected arrays \(mean, log_variance\) .* got .*; use SumOfLosses"),
        (jaxbp.GaussianNLL(), (Z, Z > 0), r"expected arrays \(mean, log_variance\) of floating-point outputs"),
    ],
)
def test_outputs_of_another_structure_are_refused_in_one_sentence(loss, outputs, message):
    with pytest.raises(TypeError, match=message):
        loss.forward(outputs, Y)


def test_arrays_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"expected mean, log_variance of one shape, got \(float32\[4, 3\]"):
        jaxbp.GaussianNLL().forward((Z, Z[:, :1]), Y)


def test_measures_of_batches_add_up_to_those_of_all_and_leave_out_what_is_ignored():
    measures = [LABELS.measure(SEQUENCE[of], TOKENS[of]) for of in (slice(0, 1), slice(1, 4))]
    found = LABELS.summary(jax.tree.map(jnp.add, *measures))
    hits = (jnp.argmax(SEQUENCE, -1) == TOKENS).sum() / 7
    chex.assert_trees_all_close(found, {"loss": LABELS.forward(SEQUENCE, TOKENS)[0], "accuracy": hits}, rtol=1e-6)


def test_the_measure_of_a_sum_is_a_sum():
    loss = HalfSquaredError(reduction=Reduction.SUM)
    measures = [loss.measure(Z[of], Y[of]) for of in (slice(0, 1), slice(1, 4))]
    np.testing.assert_allclose(loss.summary(jax.tree.map(jnp.add, *measures))["loss"], loss.forward(Z, Y)[0], rtol=1e-6)


def test_measures_without_anything_that_counts_are_refused():
    with pytest.raises(ValueError, match="no example counts"):
        LABELS.summary(LABELS.measure(SEQUENCE, -jnp.ones((4, 2), int)))


class Distance(Loss):
    """The mean distance between two outputs, with what is needed and no more."""

    def forward(self, outputs, targets, weights=None, total=None):
        d = jnp.where(targets, 1, -1)[:, None] * (outputs["a"] - outputs["b"])
        w = self.weigh(outputs, targets, weights)
        w = w / (self.total(outputs, targets, weights) if total is None else total)
        return jnp.sum(w[:, None] * d), (w, targets)

    def backward(self, residuals):
        w, targets = residuals
        g = jnp.broadcast_to((jnp.where(targets, 1, -1) * w)[:, None], (len(w), 3))
        return {"a": g, "b": -g}


def test_a_loss_of_ones_own_over_a_tree_needs_forward_and_backward():
    loss, outputs, targets = Distance(), {"a": Z, "b": Y}, jnp.array([True, False, True, True])
    _, kept = loss.forward(outputs, targets, jnp.array([1.0, 2.0, 0.0, 3.0]))
    true = jax.grad(lambda y: loss.forward(y, targets, jnp.array([1.0, 2.0, 0.0, 3.0]))[0])(outputs)
    chex.assert_trees_all_close(loss.backward(kept), true, rtol=1e-6)
    np.testing.assert_allclose(loss.summary(loss.measure(outputs, targets))["loss"], loss.forward(outputs, targets)[0])
    for what in (lambda: loss.hessian(kept, outputs), lambda: loss.hessian_root(kept, outputs)):
        with pytest.raises(NotImplementedError, match=r"Distance\(.*\) gives no curvature"):
            what()
    with pytest.raises(NotImplementedError, match="define empirical_root"):
        loss.empirical_root(kept)


def test_a_loss_that_mixes_examples_is_refused_by_name():
    require_independent_loss(HALF)
    with pytest.raises(ValueError, match=r"InfoNCE\(\) mixes the examples of a batch"):
        require_independent_loss(jaxbp.InfoNCE())


def test_losses_are_hashable_and_written_as_they_are_called():
    loss = SoftmaxCrossEntropy(0.1, reduction=Reduction.SUM)
    assert hash(loss) == hash(SoftmaxCrossEntropy(0.1, reduction=Reduction.SUM))
    assert str(loss) == "SoftmaxCrossEntropy(reduction=Reduction.SUM, smoothing=0.1)"
    assert eval(str(loss)) == loss


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_narrow_labels_are_as_good_as_wide_ones(dtype):
    outputs, y = normal(5, 120), labels(5, 120)
    loss = SoftmaxCrossEntropy(ignored_label=-1)
    chex.assert_trees_all_equal(gradient(loss, outputs, y.astype(dtype)), gradient(loss, outputs, y))


def test_a_byte_of_255_is_not_the_ignored_label_minus_one():
    outputs, y = normal(2, 256), jnp.array([255, 3])
    chex.assert_trees_all_equal(gradient(LABELS, outputs, y.astype("uint8")), gradient(LABELS, outputs, y))


def test_classes_that_are_ruled_out_cost_the_same_by_label_and_by_distribution():
    outputs, y = normal(3, 4).at[:, 3].set(-jnp.inf), jnp.array([0, 1, 2])
    one_hot = jax.nn.one_hot(y, 4)
    expected = gradient(SoftmaxCrossEntropy(), outputs, y)
    chex.assert_tree_all_finite(expected)
    chex.assert_trees_all_close(gradient(SoftmaxCrossEntropy(), outputs, one_hot), expected, rtol=1e-6)
    chex.assert_trees_all_close(gradient(jaxbp.KLDivergence(), outputs, one_hot), expected, rtol=1e-6)


def test_a_confident_right_answer_keeps_its_small_loss():
    z = jnp.array([[10.0], [15.0], [20.0]])
    for outputs, y in ((z, jnp.ones((3, 1))), (-z, jnp.zeros((3, 1)))):
        losses, _ = jaxbp.BinaryCrossEntropy().per_example(outputs, y)
        np.testing.assert_allclose(losses, np.log1p(np.exp(-np.array([10.0, 15.0, 20.0]))), rtol=1e-6)
