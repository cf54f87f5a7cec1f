import chex
import jax.numpy as jnp
import pytest

from jaxbp import Concatenate, Flatten, Identity, LayerError, Reshape, Serial, Sum, check_layer
from tests.support.arrays import normal


@pytest.mark.parametrize("layer", [Identity(), Flatten(), Reshape((6,)), Reshape((3, -1)), Reshape((2, 3, 1))], ids=str)
def test_layers_that_move_numbers_obey_the_layer_laws(layer):
    check_layer(layer, normal(4, 2, 3))


@pytest.mark.parametrize("layer", [Sum(), Concatenate(), Concatenate(axis=-2)], ids=str)
def test_layers_that_join_arrays_obey_the_layer_laws(layer):
    check_layer(layer, (normal(4, 2, 3), normal(4, 2, 3, seed=1)))


def test_arrays_of_unequal_widths_are_joined():
    check_layer(Concatenate(), (normal(4, 3), normal(4, 1), normal(4, 2)))


def test_flatten_lays_each_example_out_in_a_row_and_sends_the_gradient_back_the_same_way():
    x = jnp.arange(8.0).reshape(2, 2, 2)
    y, residuals = Flatten().forward((), x)
    chex.assert_trees_all_equal(y, jnp.array([[0.0, 1, 2, 3], [4, 5, 6, 7]]))
    chex.assert_trees_all_equal(Flatten().input_gradient((), residuals, 10 * y), 10 * x)


def test_flatten_of_numbers_without_features_gives_one_feature():
    y, residuals = Flatten().forward((), jnp.ones(3))
    chex.assert_shape(y, (3, 1))
    chex.assert_shape(Flatten().input_gradient((), residuals, y), (3,))


def test_sum_adds_and_sends_the_same_gradient_to_each():
    y, residuals = Sum().forward((), (jnp.array([[1.0, 2.0]]), jnp.array([[10.0, 20.0]])))
    chex.assert_trees_all_equal(y, jnp.array([[11.0, 22.0]]))
    g = jnp.array([[3.0, 4.0]])
    chex.assert_trees_all_equal(Sum().input_gradient((), residuals, g), (g, g))


def test_concatenate_joins_and_sends_each_its_part():
    y, residuals = Concatenate().forward((), (jnp.array([[1.0]]), jnp.array([[2.0, 3.0]])))
    chex.assert_trees_all_equal(y, jnp.array([[1.0, 2.0, 3.0]]))
    g = Concatenate().input_gradient((), residuals, jnp.array([[4.0, 5.0, 6.0]]))
    chex.assert_trees_all_equal(g, (jnp.array([[4.0]]), jnp.array([[5.0, 6.0]])))


@pytest.mark.parametrize("layer", [Flatten(), Reshape((6,))], ids=str)
def test_integers_are_moved_too_and_have_no_gradient(layer):
    y, residuals = layer.forward((), jnp.arange(12).reshape(2, 2, 3))
    assert layer.input_gradient((), residuals, jnp.ones_like(y)) is None


def test_what_these_layers_keep_holds_no_numbers():
    for layer, x in [(Flatten(), normal(4, 2, 3)), (Sum(), (normal(4, 3), normal(4, 3)))]:
        _, residuals = layer.forward((), x)
        assert sum(r.size for r in (residuals if isinstance(residuals, tuple) else [residuals])) == 0


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


def test_sum_refuses_unequal_shapes():
    with pytest.raises(LayerError, match=r"equal shape and dtype, got \(float32\[4, 3\], float32\[4, 1\]\)"):
        Sum().forward((), (normal(4, 3), normal(4, 1)))


def test_concatenate_refuses_arrays_that_differ_elsewhere():
    with pytest.raises(LayerError, match=r"alike but for axis -1, got \(float32\[4, 3\], float32\[2, 3\]\)"):
        Concatenate().forward((), (normal(4, 3), normal(2, 3)))


@pytest.mark.parametrize("axis", [0, -2, 5])
def test_concatenate_refuses_the_axis_of_examples_and_axes_that_are_not_there(axis):
    with pytest.raises(LayerError, match=rf"axis {axis} must be a feature axis"):
        Concatenate(axis).forward((), (normal(4, 3), normal(4, 3)))


@pytest.mark.parametrize("layer", [Sum(), Concatenate()], ids=str)
def test_joining_needs_a_tuple_of_floating_point_arrays(layer):
    with pytest.raises(LayerError, match=r"expected a tuple of arrays, as Parallel returns it, got float32\[4, 3\]"):
        layer.forward((), normal(4, 3))
    with pytest.raises(LayerError, match="expected a tuple of arrays"):
        layer.forward((), ())
    with pytest.raises(LayerError, match="floating-point input, got int32"):
        layer.forward((), (jnp.ones((2, 2), jnp.int32),))
