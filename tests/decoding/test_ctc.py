import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import beam_decode, greedy_decode
from tests.losses.test_ctc import merged
from tests.support.arrays import normal

LOGITS, LENGTHS = 1.5 * normal(3, 5, 3), jnp.array([5, 3, 0])


def all_probabilities(logits, blank):
    """The log-probability of everything that can be said in so many frames, by counting every alignment."""
    log_p = np.asarray(jax.nn.log_softmax(logits), float)
    said = {}
    for alignment in itertools.product(range(logits.shape[-1]), repeat=len(logits)):
        labels = tuple(merged(alignment, blank))
        said[labels] = np.logaddexp(said.get(labels, -np.inf), log_p[np.arange(len(logits)), list(alignment)].sum())
    return said


def said(labels, length):
    return tuple(np.asarray(labels)[: int(length)].tolist())


@pytest.mark.parametrize("blank", [0, 2])
def test_with_beams_enough_the_search_is_exact(blank):
    found = beam_decode(LOGITS, LENGTHS, blank, beams=64)
    for n in range(3):
        true = all_probabilities(LOGITS[n, : int(LENGTHS[n])], blank)
        ours = {
            said(labels, length): float(log_p)
            for labels, length, log_p in zip(*(a[n] for a in found), strict=True)
            if log_p > -jnp.inf
        }
        assert ours.keys() == true.keys()
        assert len(ours) == jnp.sum(found.log_probability[n] > -jnp.inf)  # none is kept twice
        np.testing.assert_allclose([ours[labels] for labels in true], list(true.values()), rtol=1e-5)
        assert (jnp.diff(found.log_probability[n]) <= 0)[: len(true) - 1].all()


def test_the_search_finds_labels_that_no_single_alignment_makes_best():
    # Graves' example: the blank is the best class at both frames, and yet the label is likelier than none.
    logits = jnp.log(jnp.array([[[0.6, 0.4], [0.6, 0.4]]]))
    assert greedy_decode(logits).lengths[0] == 0
    found = beam_decode(logits, beams=2)
    assert said(found.labels[0, 0], found.lengths[0, 0]) == (1,)
    assert float(jnp.exp(found.log_probability[0, 0])) == pytest.approx(1 - 0.36)


def test_few_beams_keep_prefixes_apart_and_find_a_likely_one():
    found = beam_decode(LOGITS, LENGTHS, beams=3)
    kept = [said(*pair) for pair in zip(found.labels[0], found.lengths[0], strict=True)]
    assert len(set(kept)) == 3
    true = all_probabilities(LOGITS[0], 0)
    assert kept[0] == max(true, key=true.get)
    assert all(float(p) <= true[labels] + 1e-5 for p, labels in zip(found.log_probability[0], kept, strict=True))


def test_greedy_decoding_merges_repeats_and_drops_blanks():
    path = jnp.array([[1, 1, 0, 1, 2, 2], [0, 2, 2, 0, 0, 1], [0, 0, 0, 0, 0, 0]])
    found = greedy_decode(5 * jax.nn.one_hot(path, 3))
    assert found.labels.tolist() == [[1, 1, 2, 0, 0, 0], [2, 1, 0, 0, 0, 0], [0] * 6]
    assert found.lengths.tolist() == [3, 2, 0]
    assert greedy_decode(5 * jax.nn.one_hot(path, 3), jnp.array([2, 3, 6])).lengths.tolist() == [1, 1, 0]
    assert greedy_decode(5 * jax.nn.one_hot(path, 3), blank=2).labels[0, :3].tolist() == [1, 0, 1]


def test_of_certain_logits_both_say_the_same():
    logits = 30 * normal(4, 12, 5)
    greedy, beam = greedy_decode(logits), beam_decode(logits, beams=4)
    assert greedy.labels.tolist() == beam.labels[:, 0].tolist()
    np.testing.assert_allclose(greedy.log_probability, beam.log_probability[:, 0], atol=1e-1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blank": 3}, r"a blank among the 3 classes of the logits float32\[3, 5, 3\], not 3"),
        ({"logit_lengths": jnp.array([5, 3])}, r"integer logit_lengths \[3\], got int32\[2\]"),
        ({"logit_lengths": jnp.array([5.0, 3, 1])}, r"integer logit_lengths \[3\], got float32\[3\]"),
        ({"logit_lengths": jnp.array([5, 6, 1])}, "logit_lengths from 0 to 5, got 1 to 6"),
    ],
)
def test_arguments_that_can_not_be_meant_are_refused(arguments, message):
    for decode in (greedy_decode, beam_decode):
        with pytest.raises(ValueError, match=message):
            decode(LOGITS, **arguments)


def test_no_beams_are_refused():
    with pytest.raises(ValueError, match="at least one beam, not 0"):
        beam_decode(LOGITS, beams=0)
