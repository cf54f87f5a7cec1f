"""Targets of CTC that no alignment can give, and targets that can't be meant."""

import chex
import jax
import jax.numpy as jnp
import pytest

from jaxbp import CTC
from tests.support.transcripts import LABELS, LOGITS, gradient_of, losses_of, occupancy_of

# 111 needs two blanks between, and so five frames.
TOO_MANY = LABELS._replace(labels=LABELS.labels.at[0].set(1), logit_lengths=LABELS.logit_lengths.at[0].set(4))
OTHERS = jnp.array([0.0, 1, 1, 1])


def test_an_impossible_alignment_costs_infinity_and_teaches_nothing():
    value, gradient = gradient_of(CTC(), LOGITS, TOO_MANY)
    assert value == jnp.inf
    chex.assert_trees_all_close(gradient, 3 / 4 * gradient_of(CTC(), LOGITS, TOO_MANY, OTHERS)[1])
    assert not gradient[0].any()
    assert gradient[1].any()
    assert not occupancy_of(LOGITS, TOO_MANY)[0].any()


def test_an_impossible_alignment_costs_nothing_on_request():
    value, gradient = gradient_of(CTC(zero_infinity=True), LOGITS, TOO_MANY)
    possible, expected = gradient_of(CTC(), LOGITS, TOO_MANY, OTHERS)
    chex.assert_trees_all_close((value, gradient), (3 / 4 * possible, 3 / 4 * expected))


def test_an_impossible_alignment_of_weight_zero_does_not_count():
    other = LABELS._replace(label_lengths=LABELS.label_lengths.at[0].set(1))
    value, gradient = gradient_of(CTC(), LOGITS, TOO_MANY, OTHERS)
    expected, expected_gradient = gradient_of(CTC(), LOGITS, other, OTHERS)
    assert value == expected
    chex.assert_trees_all_equal(gradient[1:], expected_gradient[1:])


def test_no_frames_say_no_labels():
    targets = LABELS._replace(logit_lengths=LABELS.logit_lengths.at[2].set(0))
    assert losses_of(LOGITS, targets)[2] == 0
    assert not gradient_of(CTC(), LOGITS, targets)[1][2].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": jnp.zeros((4, 3))}, r"integer labels, got float32\[4, 3\].*labels\.astype\(int\)"),
        ({"labels": jnp.array([1, 2, 3, 1])}, r"outputs float32\[4, 5, 4\] expected labels \[4, L\], got int32\[4\]"),
        ({"label_lengths": jnp.array([3, 1, 0])}, r"expected label_lengths \[4\], got int32\[3\]"),
        ({"logit_lengths": jnp.array([[5]] * 4)}, r"expected logit_lengths \[4\], got int32\[4, 1\]"),
        ({"label_lengths": jnp.array([3, 4, 0, 3])}, r"label_lengths\[1\] is 4, beyond the array: expected 0 to 3"),
        ({"logit_lengths": jnp.array([5, 4, 2, 6])}, r"logit_lengths\[3\] is 6, beyond the array: expected 0 to 5"),
        ({"labels": LABELS.labels.at[3, 1].set(4)}, r"label 4 of example 3, at position 1, is out of range.*4 classes"),
        ({"labels": LABELS.labels.at[3, 1].set(-1)}, r"label -1 of example 3, at position 1, is out of range"),
        ({"labels": LABELS.labels.at[0, 2].set(0)}, r"label 0 of example 0, at position 2, is the blank"),
        ({"logit_lengths": jnp.array([5, 4, 2, 2])}, r"example 3 has 3 labels, more than its 2 frames; leave it out"),
    ],
)
def test_targets_that_can_not_be_meant_are_refused(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        CTC().forward(LOGITS, LABELS._replace(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"label_lengths": jnp.array([3, 4, 0, 3])},
        {"logit_lengths": jnp.array([5, 4, 2, 6])},
        {"labels": LABELS.labels.at[3, 1].set(4)},
        {"labels": LABELS.labels.at[0, 2].set(0)},
    ],
)
def test_under_jit_they_give_a_loss_that_is_no_number(changes):
    losses = losses_of(LOGITS, LABELS._replace(**changes))
    assert jnp.isnan(losses).sum() == 1


def test_under_jit_labels_that_outnumber_the_frames_cost_infinity():
    losses = losses_of(LOGITS, LABELS._replace(logit_lengths=jnp.array([5, 4, 2, 2])))
    assert jnp.isposinf(losses).tolist() == [False, False, False, True]


def test_other_targets_are_refused():
    with pytest.raises(TypeError, match=r"targets Transcripts\(labels, label_lengths, logit_lengths\), got int32"):
        CTC().forward(LOGITS, LABELS.labels)


@pytest.mark.parametrize("logits", [LOGITS[0], LOGITS[..., :0], LOGITS[..., :2]], ids=str)
def test_logits_without_axes_or_without_the_blank_are_refused(logits):
    with pytest.raises(ValueError, match=r"logits \[n, t, classes\], more classes than the blank's 3|empty batch"):
        CTC(3).forward(logits, LABELS)


def test_a_negative_blank_is_refused():
    with pytest.raises(ValueError, match="the blank's class, 0 or more, not -1"):
        CTC(-1)


def test_curvature_leaves_out_padding_and_impossible_alignments():
    _, kept = jax.jit(CTC().forward)(LOGITS, TOO_MANY)
    product = CTC().hessian(kept, LOGITS)
    counts = (jnp.arange(5) < TOO_MANY.logit_lengths[:, None]).at[0].set(False)
    assert (product != 0).any(-1).tolist() == counts.tolist()
