import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

from jaxbp import LayerError, check_layer
from jaxbp.layers.spatial.pooling import AdaptiveAvgPool, AvgPool, GlobalAvgPool, MaxPool

POOLS = pytest.mark.parametrize("kind", [MaxPool, AvgPool])


def distinct(shape):
    """No two numbers equal or close: a maximum has no kink here."""
    return jnp.asarray(
        np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape) / np.prod(shape), jnp.float32
    )


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (MaxPool((2, 2)), (2, 4, 5, 2)),
        (MaxPool((3, 2), stride=(2, 1), padding="SAME"), (2, 4, 5, 2)),
        (AvgPool((2, 2)), (2, 4, 5, 2)),
        (AvgPool((3, 2), stride=(2, 1), padding="SAME"), (2, 4, 5, 2)),
        (AvgPool((2, 1, 2), stride=1), (2, 3, 2, 3, 1)),
        (GlobalAvgPool(), (2, 3, 4, 2)),
        (AdaptiveAvgPool((3, 2)), (2, 4, 5, 2)),
    ],
    ids=str,
)
def test_pooling_obeys_the_layer_laws(layer, shape):
    check_layer(layer, distinct(shape))


axis = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(3, 6), st.integers(0, 1), st.integers(0, 2))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(kind=st.sampled_from([MaxPool, AvgPool]), axes=st.lists(axis, min_size=1, max_size=2))
def test_any_window_stride_and_padding_agrees_with_xla_and_its_gradient(kind, axes):
    window, stride, grid, before, behind = zip(*axes, strict=True)
    pairs = tuple(zip(before, behind, strict=True))
    x = distinct((2, *grid, 2))
    layer = kind(window, stride, pairs)
    try:
        jax.eval_shape(lambda x: layer.forward((), x), x)
    except LayerError:
        assume(False)

    def reduced(x, start, join):
        return lax.reduce_window(x, start, join, (1, *window, 1), (1, *stride, 1), ((0, 0), *pairs, (0, 0)))

    def oracle(x):
        if kind is MaxPool:
            return reduced(x, -jnp.inf, lax.max)
        return reduced(x, 0.0, lax.add) / reduced(jnp.ones_like(x), 0.0, lax.add)

    @jax.jit
    def both(x, seed):
        y, residuals = layer.forward((), x)
        expected, pull = jax.vjp(oracle, x)
        g = jax.random.normal(seed, y.shape)
        return (y, layer.input_gradient((), residuals, g)), (expected, pull(g)[0])

    chex.assert_trees_all_close(*both(x, jax.random.key(1)), rtol=1e-5, atol=1e-5)


def test_max_pool_matches_a_case_worked_by_hand():
    x = jnp.array([[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 7.0, 6.0]]).reshape(1, 2, 4, 1)
    y, residuals = MaxPool((2, 2)).forward((), x)
    assert y.ravel().tolist() == [5.0, 7.0]
    g = jnp.array([10.0, 20.0]).reshape(1, 1, 2, 1)
    dx = MaxPool((2, 2)).input_gradient((), residuals, g)
    assert dx[0, :, :, 0].tolist() == [[0.0, 10.0, 0.0, 0.0], [0.0, 0.0, 20.0, 0.0]]


def test_of_equals_the_first_in_row_major_order_wins():
    _, residuals = MaxPool((2, 2)).forward((), jnp.ones((1, 2, 2, 1)))
    dx = MaxPool((2, 2)).input_gradient((), residuals, jnp.ones((1, 1, 1, 1)))
    assert dx.ravel().tolist() == [1.0, 0.0, 0.0, 0.0]


def test_the_winner_takes_one_byte_and_more_only_where_the_window_is_large():
    assert MaxPool((2, 2)).forward((), distinct((1, 4, 4, 1)))[1][0].dtype == jnp.int8
    wide = jax.eval_shape(lambda x: MaxPool((12, 12)).forward((), x), distinct((1, 12, 12, 1)))
    assert wide[1][0].dtype == jnp.int16


def test_where_overlapping_windows_share_a_winner_their_errors_add():
    layer, x = MaxPool((2,), stride=1), jnp.array([1.0, 3.0, 2.0]).reshape(1, 3, 1)
    _, residuals = layer.forward((), x)
    assert layer.input_gradient((), residuals, jnp.ones((1, 2, 1))).ravel().tolist() == [0.0, 2.0, 0.0]


def test_nan_is_not_pooled_away():
    x = jnp.array([1.0, jnp.nan, 2.0, 3.0]).reshape(1, 2, 2, 1)
    assert jnp.isnan(MaxPool((2, 2)).forward((), x)[0]).all()


def test_padding_neither_wins_nor_counts():
    x = -jnp.ones((1, 3, 1))
    for kind in (MaxPool, AvgPool):
        assert kind((2,), 2, ((1, 0),)).forward((), x)[0].ravel().tolist() == [-1.0, -1.0]


def test_average_pool_matches_a_case_worked_by_hand():
    layer, x = AvgPool((2,), padding="SAME"), jnp.array([1.0, 3.0, 8.0]).reshape(1, 3, 1)
    y, residuals = layer.forward((), x)
    assert y.ravel().tolist() == [2.0, 8.0]
    assert layer.input_gradient((), residuals, jnp.array([10.0, 7.0]).reshape(1, 2, 1)).ravel().tolist() == [
        5.0,
        5.0,
        7.0,
    ]


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (MaxPool((5, 2)), (2, 4, 4, 1), r"window spans \[5, 2\].*\[4, 4\]"),
        (MaxPool((2, 2)), (2, 4, 1), r"expected \[examples, height, width, channels\]"),
        (AvgPool((1,), 1, ((1, 0),)), (2, 4, 1), "without a single position"),
        (MaxPool((1,), 1, ((1, 0),)), (2, 4, 1), "without a single position"),
        (GlobalAvgPool(), (2, 4), "grid axes"),
        (GlobalAvgPool(), (2, 0, 4), "none of them empty"),
        (AdaptiveAvgPool((2, 2)), (2, 4, 4), "2 grid axes"),
        (AdaptiveAvgPool((2, 2)), (2, 0, 4, 4), "at least one position"),
    ],
    ids=str,
)
def test_an_input_that_does_not_fit_is_refused(layer, shape, message):
    with pytest.raises(LayerError, match=message):
        layer.forward((), jnp.zeros(shape))


@pytest.mark.parametrize("layer", [MaxPool((2,)), AvgPool((2,)), GlobalAvgPool(), AdaptiveAvgPool((2,))], ids=str)
def test_integers_are_refused(layer):
    with pytest.raises(LayerError, match="floating-point"):
        layer.forward((), jnp.zeros((2, 4, 1), int))


@POOLS
def test_settings_that_make_no_sense_are_refused_at_once(kind):
    with pytest.raises(ValueError, match="positive stride"):
        kind((2, 2), stride=0)
    with pytest.raises(ValueError, match="one to three sizes"):
        kind(())
    with pytest.raises(ValueError, match="positive sizes"):
        AdaptiveAvgPool(())
