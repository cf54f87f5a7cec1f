import chex
import jax.numpy as jnp
import pytest

from jaxbp import Flatten, Identity, LayerError, Reshape, Serial, Transpose, check_layer
from tests.support.arrays import normal


@pytest.mark.parametrize("layer", [Identity(), Flatten(), Reshape((6,)), Reshape((3, -1)), Reshape((2, 3, 1))], ids=str)
def test_layers_that_move_numbers_obey_the_layer_laws(layer):
    check_layer(layer, normal(4, 2, 3))


def test_flatten_lays_each_example_out_in_a_row_and_sends_the_gradient_back_the_same_way():
    x = jnp.arange(8.0).reshape(2, 2, 2)
    y, residuals = Flatten().forward((), x)
    chex.assert_trees_all_equal(y, jnp.array([[0.0, 1, 2, 3], [4, 5, 6, 7]]))
    chex.assert_trees_all_equal(Flatten().input_gradient((), residuals, 10 * y), 10 * x)


def test_flatten_of_numbers_without_features_gives_one_feature():
    y, residuals = Flatten().forward((), jnp.ones(3))
    chex.assert_shape(y, (3, 1))
    chex.assert_shape(Flatten().input_gradient((), residuals, y), (3,))


@pytest.mark.parametrize("axes", [(1,), (2, 1), (2, 3, 1), (3, 2, 1), (1, 3, 2), (3, 1, 4, 2)], ids=str)
def test_axes_in_another_order_obey_the_layer_laws(axes):
    check_layer(Transpose(axes), normal(3, *range(2, 2 + len(axes))))


def test_transpose_exchanges_time_and_features_and_puts_the_gradient_back():
    y, residuals = Transpose((2, 1)).forward((), jnp.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]))
    chex.assert_trees_all_equal(y, jnp.array([[[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]]))
    g = jnp.array([[[10.0, 40.0], [20.0, 50.0], [30.0, 60.0]]])
    dx = Transpose((2, 1)).input_gradient((), residuals, g)
    chex.assert_trees_all_equal(dx, jnp.array([[[10.0, 20.0, 30.0], [40.0, 50.0, 60.0]]]))


def test_transpose_takes_its_axes_from_where_numpy_takes_them():
    x = normal(2, 3, 4, 5)
    chex.assert_trees_all_equal(Transpose((3, 1, 2)).forward((), x)[0], jnp.transpose(x, (0, 3, 1, 2)))


def test_transpose_is_position_wise_where_time_stays_in_front():
    assert Transpose((1, 3, 2)).position_wise
    assert not Transpose((2, 1)).position_wise


@pytest.mark.parametrize("axes", [(0, 1), (1, 1), (2,), (1, 3), (-1, 1)], ids=str)
def test_transpose_refuses_axes_that_are_no_permutation(axes):
    with pytest.raises(ValueError, match=r"each axis behind the examples' once, as in \(2, 1\), not \("):
        Transpose(axes)


def test_transpose_refuses_an_input_of_another_rank():
    with pytest.raises(LayerError, match=r'layer "0", .*expected 2 axes behind the examples\', got float32\[4, 3\]'):
        Serial(Transpose((2, 1))).forward(((),), normal(4, 3))


@pytest.mark.parametrize("layer", [Flatten(), Reshape((6,)), Transpose((2, 1))], ids=str)
def test_integers_are_moved_too_and_have_no_gradient(layer):
    y, residuals = layer.forward((), jnp.arange(12).reshape(2, 2, 3))
    assert layer.input_gradient((), residuals, jnp.ones_like(y)) is None


@pytest.mark.parametrize("layer", [Flatten(), Reshape((6,)), Transpose((2, 1))], ids=str)
def test_what_these_layers_keep_holds_no_numbers(layer):
    assert layer.forward((), normal(4, 2, 3))[1].size == 0


def test_a_shape_of_another_size_names_the_path_and_both_sizes():
    with pytest.raises(
        LayerError, match=r'layer "0", Reshape.*expected 4 numbers an example, got 6 in float32\[4, 2, 3\]'
    ):
        Serial(Reshape((2, 2))).forward(((),), normal(4, 2, 3))
    with pytest.raises(LayerError, match="expected 4 numbers an example, got 6"):
        Reshape((4, -1)).forward((), normal(4, 2, 3))


@pytest.mark.parametrize("shape", [(-1, -1), (0,), (-2, 3)], ids=str)
def test_shapes_that_cannot_be_are_refused(shape):
    with pytest.raises(ValueError, match="Reshape needs positive sizes, at most one of them -1"):
        Reshape(shape)
