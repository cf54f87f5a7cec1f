import chex
import jax
import jax.numpy as jnp
import pytest

from jaxbp import Dropout, LayerError, check_layer
from tests.support.arrays import normal

KEY = jax.random.key(3)


def test_dropout_obeys_the_layer_laws_in_evaluation_and_in_training():
    check_layer(Dropout(0.25), normal(4, 3), rng=KEY)


def test_dropout_keeps_or_drops_and_the_gradient_takes_the_same_mask():
    x, g = jnp.full((8, 8), 3.0), jnp.full((8, 8), 6.0)
    y, residuals = Dropout(0.25).forward((), x, KEY)
    kept = y != 0
    assert 0 < kept.sum() < 64
    chex.assert_trees_all_close(y, jnp.where(kept, 4.0, 0.0))  # 3 / (1 - 1/4)
    chex.assert_trees_all_close(Dropout(0.25).input_gradient((), residuals, g), jnp.where(kept, 8.0, 0.0))


def test_without_a_key_dropout_passes_everything():
    x = normal(4, 3)
    y, residuals = Dropout(0.9).forward((), x)
    chex.assert_trees_all_equal(y, x)
    chex.assert_trees_all_equal(Dropout(0.9).input_gradient((), residuals, x), x)


def test_the_share_of_zeros_is_the_rate_and_the_mean_stays():
    y, _ = Dropout(0.3).forward((), jnp.ones((100, 100)), KEY)
    assert abs(float(jnp.mean(y == 0)) - 0.3) < 0.02
    assert abs(float(jnp.mean(y)) - 1) < 0.03


def test_another_key_draws_another_mask():
    x = jnp.ones((8, 8))
    first, second = (Dropout(0.5).forward((), x, key)[0] for key in jax.random.split(KEY))
    assert (first != second).any()


def test_dropout_stores_its_key_and_no_mask():
    _, residuals = Dropout(0.5).forward((), jnp.ones((8, 8)), KEY)
    assert jax.tree.leaves(residuals) == [KEY]


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
def test_a_rate_outside_zero_to_one_is_refused(rate):
    with pytest.raises(ValueError, match=f"Dropout needs 0 <= rate < 1, not {rate}"):
        Dropout(rate)


def test_dropout_refuses_integers():
    with pytest.raises(LayerError, match=r"Dropout\(0.5\): expected floating-point input, got int32\[2, 2\]"):
        Dropout(0.5).forward((), jnp.ones((2, 2), jnp.int32), KEY)
