import jax.numpy as jnp
import pytest

from experiments.spoken_digits.error_rates import error_rate, sentence_error_rate, sentences

SAID = [[1, 2, 3], [4], []]


def test_error_rates_match_a_case_worked_by_hand():
    heard = [[1, 3, 3, 5], [4], [6]]  # one substituted, one inserted; none; one inserted
    assert error_rate(heard, SAID) == 3 / 4
    assert sentence_error_rate(heard, SAID) == 2 / 3
    assert error_rate(SAID, SAID) == sentence_error_rate(SAID, SAID) == 0


def test_padded_labels_become_lists():
    assert sentences(jnp.array([[1, 2, 0], [0, 0, 0]]), jnp.array([2, 0])) == [[1, 2], []]


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one label, but all of 2 sentences are empty"):
        error_rate([[1], []], [[], []])
    with pytest.raises(ValueError, match="at least one sentence"):
        sentence_error_rate([], [])
