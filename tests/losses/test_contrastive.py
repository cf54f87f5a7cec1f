from math import log

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import InfoNCE
from tests.support.arrays import normal

PAIR = normal(4, 3), normal(4, 3, seed=1)


def test_contrast_matches_a_case_worked_by_hand():
    # Similarities log 3 and 0: each anchor finds its own with probability 3/4.
    loss, pair = InfoNCE(1 / log(3)), (jnp.eye(2), 2 * jnp.eye(2))
    value, kept = loss.forward(pair, ())
    assert float(value) == pytest.approx(log(4 / 3))
    anchors, positives = loss.backward(kept)
    slope = log(3) / 8 * (1 - jnp.eye(2))
    chex.assert_trees_all_close((anchors, positives), (slope, slope / 2), rtol=1e-5, atol=1e-7)


def test_it_mixes_examples():
    assert InfoNCE().mixes_examples
    other = PAIR[0], PAIR[1].at[3].add(1)
    losses = [InfoNCE().per_example(pair, ())[0] for pair in (PAIR, other)]
    assert (losses[0] != losses[1]).all()


def test_lengths_do_not_count():
    longer = PAIR[0] * jnp.array([[1.0], [2], [3], [4]]), 5 * PAIR[1]
    np.testing.assert_allclose(InfoNCE().forward(longer, ())[0], InfoNCE().forward(PAIR, ())[0], rtol=1e-5)


def test_small_temperatures_do_not_overflow():
    value, kept = jax.jit(InfoNCE(1e-4).forward)(PAIR, ())
    chex.assert_tree_all_finite((value, InfoNCE(1e-4).backward(kept)))


def test_a_batch_of_padding_costs_nothing_and_teaches_nothing():
    spoilt = jax.tree.map(lambda a: a * jnp.nan, PAIR)
    value, kept = jax.jit(InfoNCE().forward)(spoilt, (), jnp.zeros(4))
    assert value == 0
    assert not any(g.any() for g in InfoNCE().backward(kept))


def test_the_empirical_fisher_is_refused_by_name():
    with pytest.raises(ValueError, match=r"InfoNCE\(\) mixes the examples of a batch"):
        InfoNCE().empirical_root(InfoNCE().forward(PAIR, ())[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InfoNCE(0.0), "a positive temperature, not 0"),
        (lambda: InfoNCE().forward(PAIR, jnp.ones(4)), r"expected no targets, \(\), got float32\[4\]"),
        (lambda: InfoNCE().forward((normal(4, 2, 3), normal(4, 2, 3)), ()), r"expected embeddings \[n, d\], got"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
