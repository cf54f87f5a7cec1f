import chex
import jax.numpy as jnp
import pytest

from jaxbp import LayerError, WeightedSum, check_layer
from tests.support.arrays import normal

SHAPES = {
    "numbers": ((4, 3), (4, 3)),
    "vectors": ((4, 3, 5), (4, 3)),
    "images": ((2, 3, 4, 4, 2), (2, 3)),
    "vectors at each position": ((2, 3, 4, 5), (2, 4, 3)),
    "vectors at each position of a grid": ((2, 3, 4, 2, 5), (2, 4, 2, 3)),
    "a single term": ((2, 1, 5), (2, 1)),
}


@pytest.mark.parametrize(("terms", "weights"), SHAPES.values(), ids=SHAPES)
def test_a_weighted_sum_obeys_the_layer_laws(terms, weights):
    check_layer(WeightedSum(), (normal(*terms), normal(*weights, seed=1)))


def test_a_weighted_sum_matches_a_case_worked_by_hand():
    x, w = jnp.array([[[1.0, 2.0], [3.0, 4.0]]]), jnp.array([[10.0, 100.0]])
    y, residuals = WeightedSum().forward((), (x, w))
    chex.assert_trees_all_equal(y, jnp.array([[310.0, 420.0]]))
    expected = jnp.array([[[50.0, 60.0], [500.0, 600.0]]]), jnp.array([[5.0 * 1 + 6 * 2, 5.0 * 3 + 6 * 4]])
    chex.assert_trees_all_equal(WeightedSum().input_gradient((), residuals, jnp.array([[5.0, 6.0]])), expected)


def test_sums_of_many_terms_are_exact_in_bfloat16():
    x, w = jnp.ones((1, 1000, 1), jnp.bfloat16), jnp.ones((1, 1000), jnp.bfloat16)
    y, _ = WeightedSum().forward((), (x, w))
    assert y.dtype == jnp.bfloat16
    assert y == 1000


@pytest.mark.parametrize(
    ("terms", "weights"), [((4, 3, 5), (4, 2)), ((4, 3, 5), (4,)), ((4, 3), (4, 5, 3)), ((4,), (4,))]
)
def test_weights_must_fit_the_terms(terms, weights):
    with pytest.raises(LayerError, match=r"terms \[n, e, \*positions, ...\] and weights \[n, \*positions, e\], got"):
        WeightedSum().forward((), (normal(*terms), normal(*weights)))


def test_a_weighted_sum_needs_a_pair():
    with pytest.raises(LayerError, match=r"expected a pair \(terms, weights\), got \(float32\[4, 3\]\)"):
        WeightedSum().forward((), (normal(4, 3),))
    with pytest.raises(LayerError, match=r"expected a tuple of arrays, as Parallel returns it, got float32\[4, 3\]"):
        WeightedSum().forward((), normal(4, 3))
