import chex
import jax.numpy as jnp
import pytest

from jaxbp import JoinHeads, LayerError, Serial, SplitHeads, check_layer
from tests.support.arrays import normal


@pytest.mark.parametrize(("size", "shape"), [(1, (2, 3, 4)), (2, (2, 3, 4)), (4, (2, 3, 4)), (3, (1, 1, 6))], ids=str)
def test_heads_obey_the_layer_laws(size, shape):
    check_layer(SplitHeads(size), normal(*shape))
    check_layer(JoinHeads(), normal(*shape[:2], shape[2] // size, size))


def test_heads_are_neighbouring_features_and_gradients_go_back_where_they_came_from():
    x = jnp.array([[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]])
    heads, residuals = SplitHeads(3).forward((), x)
    chex.assert_trees_all_equal(heads, jnp.array([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]]))
    chex.assert_trees_all_equal(SplitHeads(3).input_gradient((), residuals, 10 * heads), 10 * x)
    y, residuals = JoinHeads().forward((), heads)
    chex.assert_trees_all_equal(y, x)
    chex.assert_trees_all_equal(JoinHeads().input_gradient((), residuals, 10 * x), 10 * heads)


def test_an_empty_batch_has_heads_too():
    heads, residuals = SplitHeads(2).forward((), jnp.ones((0, 3, 4)))
    chex.assert_shape(heads, (0, 3, 2, 2))
    chex.assert_shape(SplitHeads(2).input_gradient((), residuals, heads), (0, 3, 4))


def test_heads_are_position_wise():
    assert SplitHeads(2).position_wise
    assert JoinHeads().position_wise


def test_what_has_no_heads_is_refused():
    with pytest.raises(ValueError, match="SplitHeads needs a positive whole number of size, not 0"):
        SplitHeads(0)
    with pytest.raises(LayerError, match=r'layer "0", .*heads of size 3 divide, got float32\[2, 3, 4\]'):
        Serial(SplitHeads(3)).forward(((),), normal(2, 3, 4))
    with pytest.raises(LayerError, match=r"expected \[examples, positions, features\], got float32\[3, 4\]"):
        SplitHeads(2).forward((), normal(3, 4))
    with pytest.raises(LayerError, match=r"expected \[examples, positions, heads, size\], got float32\[2, 3, 4\]"):
        JoinHeads().forward((), normal(2, 3, 4))
    for layer, shape in ((SplitHeads(1), (2, 3, 4)), (JoinHeads(), (2, 3, 2, 2))):
        with pytest.raises(LayerError, match="floating-point input, got int32"):
            layer.forward((), jnp.ones(shape, jnp.int32))
