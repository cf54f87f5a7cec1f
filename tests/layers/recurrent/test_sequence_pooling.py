import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import LayerError, MaxOverTime, MeanOverTime, Sequences, ZeroPadding
from tests.support.arrays import normal

LAYERS = [MeanOverTime(), MaxOverTime(), ZeroPadding()]
X, LENGTHS = normal(3, 4, 2), jnp.array([2, 4, 0])


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_what_joins_times_obeys_the_layer_laws(layer):
    jaxbp.check_layer(layer, Sequences(X, LENGTHS))


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_padding_has_no_gradient_and_changes_nothing_even_where_it_is_nan(layer):
    def run(x, lengths):
        y, residuals = layer.forward((), Sequences(x, lengths))
        return y, layer.input_gradient((), residuals, jax.tree.map(jnp.ones_like, y))

    y, dx = run(X, LENGTHS)
    longer = jnp.pad(X, ((0, 0), (0, 2), (0, 0)), constant_values=jnp.nan)
    longer = jnp.where(jnp.arange(6)[:, None] < LENGTHS[:, None, None], longer, jnp.nan)
    y2, dx2 = run(longer, LENGTHS)
    values, values2 = (y[0], y2[0][:, :4]) if isinstance(layer, ZeroPadding) else (y, y2)
    np.testing.assert_array_equal(values, values2)
    np.testing.assert_array_equal(dx.values, dx2.values[:, :4])
    assert not np.any(dx2.values[:, 4:])
    assert not np.any(dx.values[0, 2:])
    assert not np.any(dx.values[2])


def test_a_case_by_hand():
    x = Sequences(jnp.array([[[1.0, 5.0], [3.0, 5.0], [9.0, 9.0]]]), jnp.array([2]))
    g = jnp.array([[4.0, 6.0]])
    mean, residuals = MeanOverTime().forward((), x)
    np.testing.assert_array_equal(mean, [[2, 5]])
    np.testing.assert_array_equal(MeanOverTime().input_gradient((), residuals, g).values, [[[2, 3], [2, 3], [0, 0]]])
    largest, residuals = MaxOverTime().forward((), x)
    np.testing.assert_array_equal(largest, [[3, 5]])
    np.testing.assert_array_equal(MaxOverTime().input_gradient((), residuals, g).values, [[[0, 6], [4, 0], [0, 0]]])
    np.testing.assert_array_equal(ZeroPadding().forward((), x)[0].values, [[[1, 5], [3, 5], [0, 0]]])


def test_an_array_is_all_real():
    np.testing.assert_allclose(MeanOverTime().forward((), X)[0], jnp.mean(X, 1), rtol=1e-6)
    np.testing.assert_array_equal(MaxOverTime().forward((), X)[0], jnp.max(X, 1))
    np.testing.assert_array_equal(ZeroPadding().forward((), X)[0], X)


def test_states_are_not_lost_in_silence():
    with pytest.raises(LayerError, match="the states would be lost"):
        MeanOverTime().forward((), Sequences(X, None, ((X[:, 0],),)))
