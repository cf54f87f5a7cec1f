import itertools
from functools import partial
from math import log

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxbp import CTC, Dense, Serial, Transcripts, check_gradients
from jaxbp.train import accumulated_gradient
from tests.arrays import normal
from tests.losses.oracle import TOLERANCES

# Lengths of all kinds, a repeated label, no label; what lies behind the lengths is no label at all.
LOGITS = 2 * normal(4, 5, 4)
LABELS = Transcripts(
    jnp.array([[1, 1, 2], [3, -1, 9], [0, 0, 0], [2, 1, 3]]), jnp.array([3, 1, 0, 3]), jnp.array([5, 4, 2, 3])
)
WEIGHTS = jnp.array([1.0, 0.0, 2.0, 0.5])


@partial(jax.jit, static_argnums=0)
def gradient_of(loss, logits, targets, weights=None):
    value, residuals = loss.forward(logits, targets, weights)
    return value, loss.backward(residuals)


losses_of = jax.jit(lambda logits, targets: CTC().per_example(logits, targets)[0])
occupancy_of = jax.jit(CTC().occupancy)


def merged(alignment, blank):
    """What an alignment says: repeats merged, then blanks dropped."""
    return [k for k, _ in itertools.groupby(alignment) if k != blank]


def brute_force(logits, targets, blank):
    """-log P of each example, summing over every alignment there is."""
    n, t, classes = logits.shape
    alignments = np.array(list(itertools.product(range(classes), repeat=t)))
    fits = np.zeros((n, len(alignments)), bool)
    for i, (labels, length, frames) in enumerate(zip(*map(np.asarray, targets), strict=True)):
        for j, alignment in enumerate(alignments):
            once = not alignment[frames:].any()  # frames behind the length: one alignment stands for all
            fits[i, j] = once and merged(alignment[:frames], blank) == list(labels[:length])
    log_p = jax.nn.log_softmax(logits) * (np.arange(t) < targets.logit_lengths[:, None])[..., None]
    scores = log_p[:, np.arange(t), alignments].sum(-1)
    return -jax.nn.logsumexp(jnp.where(fits, scores, -jnp.inf), 1), fits.any(1)


def all_labels(names, longest, frames):
    """Every sequence of up to `longest` labels, with every number of frames."""
    sequences = [s for length in range(longest + 1) for s in itertools.product(names, repeat=length)]
    cases = list(itertools.product(sequences, range(1, frames + 1)))
    labels = np.array([(*s, *[0] * (longest - len(s))) for s, _ in cases])
    return Transcripts(labels, np.array([len(s) for s, _ in cases]), np.array([t for _, t in cases]))


@pytest.mark.parametrize("blank", [0, 2])
def test_value_and_gradient_are_those_of_all_alignments_counted_one_by_one(blank):
    targets = all_labels([k for k in range(3) if k != blank], 3, 6)
    logits = np.asarray(2 * normal(len(targets.labels), 6, 3), float)
    with jax.enable_x64(True):
        logits = jnp.asarray(logits)
        loss = CTC(blank, zero_infinity=True)
        losses, residuals = jax.jit(loss.per_example)(logits, jax.tree.map(jnp.asarray, targets))
        gradient = loss.scaled_gradient(residuals, 1)
        true, possible = brute_force(logits, targets, blank)
        true_gradient = jax.grad(lambda z: jnp.sum(jnp.where(possible, brute_force(z, targets, blank)[0], 0)))(logits)
    assert 10 < possible.sum() < len(possible)
    np.testing.assert_allclose(losses[possible], true[possible], rtol=1e-12)
    np.testing.assert_allclose(gradient[possible], true_gradient[possible], atol=1e-12)
    assert not losses[~possible].any()
    assert not gradient[~possible].any()


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_gradient_is_that_of_jax_grad_in_every_precision(dtype):
    with jax.enable_x64(True):
        logits = LOGITS.astype("bfloat16").astype(dtype)
        value, gradient = gradient_of(CTC(), logits, LABELS, WEIGHTS)
        true_value, true = value_and_autodiff(logits.astype("float64"), LABELS, WEIGHTS)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(value, true_value, rtol=TOLERANCES[dtype])
    error = np.linalg.norm(np.asarray(gradient, float) - np.asarray(true))
    assert error <= TOLERANCES[dtype] * np.linalg.norm(np.asarray(true))


value_and_autodiff = jax.jit(jax.value_and_grad(lambda *arguments: CTC().forward(*arguments)[0]))


def test_the_loss_is_that_of_optax():
    def padding(lengths, most):
        return jnp.arange(most) >= lengths[:, None]

    targets = LABELS._replace(labels=jnp.maximum(LABELS.labels, 0) % 4)
    paddings = padding(targets.logit_lengths, 5), padding(targets.label_lengths, 3)
    theirs = jax.jit(
        jax.value_and_grad(lambda z: jnp.mean(optax.ctc_loss(z, paddings[0], targets.labels, paddings[1])))
    )
    value, gradient = gradient_of(CTC(), LOGITS, targets)
    true, true_gradient = theirs(LOGITS)
    np.testing.assert_allclose(value, true, rtol=1e-5)
    np.testing.assert_allclose(gradient, true_gradient, atol=1e-5)


def test_ctc_matches_a_case_worked_by_hand():
    # Two frames, two classes, each of probability 1/2; ␣1, 1␣ and 11 say 1: P = 3/4, and 1 is in two of three.
    targets = Transcripts(jnp.array([[1]]), jnp.array([1]))
    value, gradient = gradient_of(CTC(), jnp.zeros((1, 2, 2)), targets)
    assert float(value) == pytest.approx(log(4 / 3))
    chex.assert_trees_all_close(gradient, jnp.full((1, 2, 2), jnp.array([1 / 6, -1 / 6])), rtol=1e-5)
    chex.assert_trees_all_close(
        occupancy_of(jnp.zeros((1, 2, 2)), targets), jnp.full((1, 2, 2), jnp.array([1 / 3, 2 / 3])), rtol=1e-5
    )


def test_padding_changes_nothing():
    value, gradient = gradient_of(CTC(), LOGITS, LABELS)
    longer = jnp.concatenate([LOGITS, 1e4 * normal(4, 3, 4)], 1)
    wider = LABELS._replace(labels=jnp.pad(LABELS.labels, ((0, 0), (0, 2)), constant_values=7))
    padded_value, padded = gradient_of(CTC(), longer, wider)
    chex.assert_trees_all_close(padded_value, value, rtol=1e-6)
    chex.assert_trees_all_close(padded[:, :5], gradient, atol=1e-7)
    assert not padded[:, 5:].any()
    behind = jnp.arange(5) >= LABELS.logit_lengths[:, None]
    assert not gradient[behind].any()


def test_without_lengths_of_logits_all_frames_count():
    chex.assert_trees_all_equal(
        gradient_of(CTC(), LOGITS, LABELS._replace(logit_lengths=None)),
        gradient_of(CTC(), LOGITS, LABELS._replace(logit_lengths=jnp.full(4, 5))),
    )


def logarithms(logits, labels):
    """-log P by the recursion over logarithms, in NumPy's float64."""
    z = np.asarray(logits, float)
    log_p = z - np.logaddexp.reduce(z, -1, keepdims=True)
    classes = np.zeros(2 * len(labels) + 1, int)
    classes[1::2] = labels
    skip = np.where((classes != 0) & (classes != np.roll(classes, 2)) | (np.arange(len(classes)) == 1), 0, -np.inf)
    shift = lambda a, k: np.concatenate([np.full(k, -np.inf), a[:-k]])[: len(a)]  # noqa: E731
    alpha = np.where(np.arange(len(classes)) < 2, log_p[0, classes], -np.inf)
    for row in log_p[1:]:
        steps = np.logaddexp(alpha, shift(alpha, 1))
        alpha = np.logaddexp(steps, shift(alpha, 2) + skip if len(alpha) > 2 else -np.inf) + row[classes]
    return -np.logaddexp.reduce(alpha[-2:])


def of_5000_frames(logits, labels):
    """Value and gradient of one example, all of them compiled once."""
    logits = np.asarray(logits, np.float32)
    padded = np.pad(logits, ((0, 5000 - len(logits)), (0, 0)))[None]
    sentence = np.pad(np.asarray(labels, int), (0, 30 - len(labels)))[None]
    value, gradient = gradient_of(
        CTC(), padded, Transcripts(sentence, np.array([len(labels)]), np.array([len(logits)]))
    )
    return value, gradient[0, : len(logits)]


@pytest.mark.parametrize(("frames", "length"), [(40, 9), (5000, 30), (5000, 0)])
def test_extreme_logits_give_the_loss_of_logarithms_and_a_gradient_that_sums_to_zero(frames, length):
    rng = np.random.default_rng(frames + length)
    logits, labels = 1e4 * rng.choice([-1, 1, 0.1], (frames, 4)), rng.integers(1, 4, length)
    value, gradient = of_5000_frames(logits, labels)
    np.testing.assert_allclose(value, logarithms(logits, labels), rtol=1e-5)
    chex.assert_tree_all_finite(gradient)
    np.testing.assert_allclose(gradient.sum(-1), 0, atol=1e-6)
    assert np.abs(gradient).max() > 0.5


def test_a_state_all_but_impossible_is_not_lost_where_all_alignments_must_pass_it():
    # For ten frames class 3 is nearly certain, then the blank is, and the label less likely still: it must come early.
    logits = np.full((20, 4), -1e4)
    logits[:10, 3] = logits[10:, 0] = 1e4
    logits[10:, 1] = -3e4
    value, gradient = of_5000_frames(logits, [1])
    np.testing.assert_allclose(value, logarithms(logits, [1]), rtol=1e-6)
    assert value == pytest.approx(2e5, rel=1e-4)
    np.testing.assert_allclose(gradient[:10, 3], 1)
    np.testing.assert_allclose(gradient[10:], 0, atol=1e-6)


def test_the_loss_is_never_negative():
    rng = np.random.default_rng(0)
    classes = np.tile([1, 1, 0, 2, 2, 2, 3, 0, 0, 0], (200, 5))
    logits = rng.uniform(5, 30, (200, 1, 1)) * jax.nn.one_hot(classes, 4) + rng.normal(size=(200, 50, 4))
    labels = np.tile([1, 2, 3], (200, 5))
    losses = losses_of(logits.astype("float32"), Transcripts(labels, np.full(200, 15), np.full(200, 50)))
    assert (losses >= 0).all()
    assert (losses < 1e-3).any()


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


def test_logits_of_minus_infinity_are_classes_of_probability_zero():
    excluded, small = LOGITS.at[1:, :, 0].set(-jnp.inf), LOGITS.at[1:, :, 0].set(-1e9)
    value, gradient = gradient_of(CTC(), excluded, LABELS, jnp.array([1.0, 1, 0, 1]))
    chex.assert_tree_all_finite(gradient)
    chex.assert_trees_all_close((value, gradient), gradient_of(CTC(), small, LABELS, jnp.array([1.0, 1, 0, 1])))


def test_a_model_with_ctc_passes_the_checker_and_micro_batches():
    model, x = Serial(Dense(4)), normal(4, 5, 3)
    params = model.init(jax.random.key(0), x)
    assert check_gradients(model, CTC(), params, x, LABELS).ok
    step = jax.jit(partial(accumulated_gradient, model, CTC()), static_argnums=0)
    whole, parts = (step(count, params, x, LABELS, jax.random.key(0), None) for count in (1, 2))
    chex.assert_trees_all_close(whole, parts, rtol=1e-5)


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


def test_curvature_is_refused_by_name():
    _, residuals = jax.jit(CTC().forward)(LOGITS, LABELS)
    for product in (CTC().hessian, CTC().hessian_root):
        with pytest.raises(NotImplementedError, match=r"CTC\(\) gives no curvature"):
            product(residuals, LOGITS)
