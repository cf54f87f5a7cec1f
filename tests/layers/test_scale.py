import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Dense, LayerError, PReLU, Scale, Serial, check_layer
from tests.support.arrays import normal

LAYERS = [Scale(), Scale(0.1, axis=1), Scale(axis=None), PReLU(), PReLU(axis=1), PReLU(-0.5), PReLU(axis=None)]


def drawn(layer, x):
    """Parameters that differ from channel to channel."""
    params = layer.init(jax.random.key(0), x)
    return jax.tree.map(lambda p: p + normal(*p.shape, dtype=p.dtype), params)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("shape", [(4, 1), (4, 3), (3, 5, 2), (2, 3, 2, 4)], ids=str)
def test_learned_numbers_for_channels_obey_the_layer_laws(layer, shape):
    x = normal(*shape)
    check_layer(layer, x, drawn(layer, x))


def test_scale_matches_a_case_worked_by_hand():
    layer, params = Scale(), {"scale": jnp.array([2.0, 3.0])}
    x, g = jnp.array([[1.0, 10.0], [4.0, 5.0]]), jnp.array([[1.0, 2.0], [10.0, 20.0]])
    y, residuals = layer.forward(params, x)
    chex.assert_trees_all_equal(y, jnp.array([[2.0, 30.0], [8.0, 15.0]]))
    chex.assert_trees_all_equal(layer.input_gradient(params, residuals, g), jnp.array([[2.0, 6.0], [20.0, 60.0]]))
    chex.assert_trees_all_equal(layer.param_gradient(params, residuals, g), {"scale": jnp.array([41.0, 120.0])})


def test_one_scale_for_all_gathers_from_everything():
    layer, params = Scale(axis=None), {"scale": jnp.array(2.0)}
    x, g = jnp.array([[1.0, 10.0], [4.0, 5.0]]), jnp.array([[1.0, 2.0], [10.0, 20.0]])
    y, residuals = layer.forward(params, x)
    chex.assert_trees_all_equal(y, 2 * x)
    chex.assert_trees_all_equal(layer.param_gradient(params, residuals, g), {"scale": jnp.array(161.0)})


def test_prelu_matches_a_case_worked_by_hand():
    layer, params = PReLU(), {"slope": jnp.array([0.5, -2.0])}
    x, g = jnp.array([[-4.0, 3.0], [-2.0, -1.0]]), jnp.array([[1.0, 7.0], [10.0, 5.0]])
    y, residuals = layer.forward(params, x)
    chex.assert_trees_all_equal(y, jnp.array([[-2.0, 3.0], [-1.0, 2.0]]))
    chex.assert_trees_all_equal(layer.input_gradient(params, residuals, g), jnp.array([[0.5, 7.0], [5.0, -10.0]]))
    chex.assert_trees_all_equal(layer.param_gradient(params, residuals, g), {"slope": jnp.array([-24.0, -5.0])})


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_init_fills_with_the_initial_number_in_the_dtype_of_x(layer):
    (values,) = layer.init(jax.random.key(0), jax.ShapeDtypeStruct((4, 3, 2), jnp.bfloat16)).values()
    chex.assert_shape(values, () if layer.axis is None else (3,) if layer.axis == 1 else (2,))
    assert values.dtype == jnp.bfloat16
    np.testing.assert_array_equal(values, jnp.full_like(values, layer.initial))


@pytest.mark.parametrize("layer", [Scale(0.5), PReLU(0.5)], ids=str)
def test_gradients_of_bfloat16_sum_in_float32(layer):
    x = -jnp.ones((1000, 1), jnp.bfloat16)
    params = layer.init(jax.random.key(0), x)
    _, residuals = layer.forward(params, x)
    (gradient,) = layer.param_gradient(params, residuals, jnp.ones_like(x)).values()
    assert gradient == -1000


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_per_example_gradients_and_norms_are_those_of_jax_grad_one_by_one(layer):
    with jax.enable_x64(True):
        model, loss = Serial(Dense(3), layer, Dense(2)), jaxbp.HalfSquaredError()
        x, y = normal(4, 5, 3, dtype="float64"), normal(4, 5, 2, seed=1, dtype="float64")
        params = jax.tree.map(lambda p: p + 0.3 * normal(*p.shape), model.init(jax.random.key(0), x))

        def one(params, x, y):
            return loss.forward(model.forward(params, x[None])[0], y[None])[0]

        true = jax.vmap(jax.grad(one), (None, 0, 0))(params, x, y)
        wanted = {"each": jaxbp.per_example_gradients, "norms": jaxbp.per_example_norms}
        _, found = jaxbp.value_and_quantities(model, loss, wanted)(params, x, y)
        chex.assert_trees_all_close(found["each"], true, rtol=1e-10)
        squares = sum(jnp.sum(a.reshape(4, -1) ** 2, 1) for a in jax.tree.leaves(true))
        chex.assert_trees_all_close(found["norms"], jnp.sqrt(squares), rtol=1e-10)


def test_layers_are_position_wise_unless_each_time_has_its_own_number():
    assert all(layer.position_wise for layer in (Scale(), Scale(axis=None), Scale(axis=2), PReLU(), PReLU(axis=3)))
    assert not any(layer.position_wise for layer in (Scale(axis=1), PReLU(axis=-2)))


@pytest.mark.parametrize("layer", [Scale(axis=0), PReLU(axis=-2), Scale(axis=2)], ids=str)
def test_the_axis_of_examples_and_axes_that_are_not_there_are_refused(layer):
    with pytest.raises(
        LayerError, match=r'layer "0", .*to be a feature axis of \[examples, ...\], got float32\[4, 3\]'
    ):
        Serial(layer).init(jax.random.key(0), normal(4, 3))


@pytest.mark.parametrize("layer", [Scale(), PReLU()], ids=str)
def test_integers_and_parameters_of_another_layer_are_refused(layer):
    with pytest.raises(LayerError, match=r"floating-point input, got int32\[4, 3\]"):
        layer.init(jax.random.key(0), jnp.ones((4, 3), jnp.int32))
    for params in ({layer.name: jnp.ones(2)}, {"weight": jnp.ones(3)}, (), {layer.name: jnp.ones(())}):
        with pytest.raises(LayerError, match=rf"expected parameters \{{{layer.name} \[3\]\}} for float32\[4, 3\], got"):
            layer.forward(params, normal(4, 3))
