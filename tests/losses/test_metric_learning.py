import chex
import jax
import jax.numpy as jnp
import pytest

from jaxbp import CosineEmbedding, Triplet
from tests.support.arrays import normal

PAIR = jnp.array([[3.0, 4.0]]), jnp.array([[4.0, 3.0]])  # a cosine of 0.96


def test_pairs_match_a_case_worked_by_hand():
    # P e' = (0.224, -0.168), divided by the length 5.
    loss = CosineEmbedding(margin=0.5)
    for y, expected, sign in ((1, 0.04, -1), (-1, 0.46, 1)):
        value, kept = loss.forward(PAIR, jnp.array([y]))
        assert float(value) == pytest.approx(expected, rel=1e-5)
        slope = jnp.array([[0.0448, -0.0336]]), jnp.array([[-0.0336, 0.0448]])
        chex.assert_trees_all_close(loss.backward(kept), jax.tree.map(lambda g, s=sign: s * g, slope), rtol=1e-5)


def test_pairs_farther_apart_than_the_margin_cost_and_teach_nothing():
    value, kept = CosineEmbedding(0.97).forward(PAIR, jnp.array([-1]))
    assert value == 0
    assert not any(g.any() for g in CosineEmbedding().backward(kept))


def test_a_vector_of_length_zero_has_a_gradient_of_zero():
    pair = jnp.zeros((1, 2)), PAIR[1]
    value, kept = CosineEmbedding().forward(pair, jnp.array([1]))
    assert value == 1
    chex.assert_trees_all_equal(CosineEmbedding().backward(kept), (jnp.zeros((1, 2)), jnp.zeros((1, 2))))


def test_triplets_match_a_case_worked_by_hand():
    outputs = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    value, kept = Triplet().forward(outputs, ())
    assert value == 1
    slope = jnp.array([[-2.0, 2.0]]), jnp.array([[2.0, 0.0]]), jnp.array([[0.0, -2.0]])
    chex.assert_trees_all_equal(Triplet().backward(kept), slope)
    far = outputs[0], outputs[1], jnp.array([[0.0, 2.0]])
    value, kept = Triplet().forward(far, ())
    assert value == 0
    assert not any(g.any() for g in Triplet().backward(kept))
    assert Triplet().metrics(outputs, ())["accuracy"] == 0
    assert Triplet().metrics(far, ())["accuracy"] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineEmbedding(2.0), "a margin between -1 and 1, not 2"),
        (lambda: CosineEmbedding().forward(PAIR, jnp.array([0])), r"expected targets -1 and 1, got 0"),
        (lambda: CosineEmbedding().forward(PAIR, jnp.ones((1, 2))), r"expected targets \[1\], got float32\[1, 2\]"),
        (lambda: CosineEmbedding().forward((normal(3), normal(3)), 1), r"expected embeddings \[n, ..., d\], got"),
        (lambda: Triplet(0.0), "a positive margin, not 0"),
        (lambda: Triplet().forward((*PAIR, PAIR[0]), jnp.ones(1)), r"expected no targets, \(\), got float32\[1\]"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
