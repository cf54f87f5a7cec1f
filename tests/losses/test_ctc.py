import itertools
from dataclasses import replace
from math import log

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp import CTC, Dense, Serial, Transcripts, check_gradients
from jaxbp.training.step import accumulated_gradient
from tests.support.arrays import normal
from tests.support.loss_oracle import TOLERANCES
from tests.support.transcripts import LABELS, LOGITS, WEIGHTS, gradient_of, losses_of, occupancy_of


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
    # A frame torn between the label before it and the blank behind: both ways are right, and their float32
    # probabilities add up to a little more than 1 for some.
    logits = np.tile(np.array([[-20.0, 20.0], [0.0, 0.0], [20.0, -20.0]], "float32"), (200, 1, 1))
    logits[:, 1] = np.random.default_rng(0).normal(size=(200, 2))
    losses = losses_of(logits, Transcripts(np.ones((200, 1), int), np.ones(200, int), np.full(200, 3)))
    assert (losses >= 0).all()
    assert (losses < 1e-6).all()


def test_logits_of_minus_infinity_are_classes_of_probability_zero():
    excluded, small = LOGITS.at[1:, :, 0].set(-jnp.inf), LOGITS.at[1:, :, 0].set(-1e9)
    value, gradient = gradient_of(CTC(), excluded, LABELS, jnp.array([1.0, 1, 0, 1]))
    chex.assert_tree_all_finite(gradient)
    chex.assert_trees_all_close((value, gradient), gradient_of(CTC(), small, LABELS, jnp.array([1.0, 1, 0, 1])))


def test_a_model_with_ctc_passes_the_checker_and_micro_batches():
    model, x = Serial(Dense(4)), normal(4, 5, 3)
    params = model.init(jax.random.key(0), x)
    assert check_gradients(model, CTC(), params, x, LABELS).ok
    step, recipe = jax.jit(accumulated_gradient, static_argnums=0), jaxbp.Recipe(model, CTC(), optax.sgd(0.1))
    both = (recipe, replace(recipe, micro_batches=2))
    whole, parts = (step(recipe, params, x, LABELS, jax.random.key(0)) for recipe in both)
    chex.assert_trees_all_close(whole, parts, rtol=1e-5)
