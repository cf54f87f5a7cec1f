from math import log

import chex
import jax
import jax.numpy as jnp
import pytest

from jaxbp import GLU, Dense, GeGLU, LayerError, ReGLU, Serial, SwiGLU, check_layer
from tests.support.arrays import normal

ALL = [GLU(), SwiGLU(), GeGLU(), GeGLU(approximate=True), ReGLU()]


@pytest.mark.parametrize("layer", ALL, ids=str)
@pytest.mark.parametrize("shape", [(4, 2), (4, 6), (3, 5, 4), (2, 3, 2, 4)], ids=str)
def test_gates_obey_the_layer_laws(layer, shape):
    check_layer(layer, 2 * normal(*shape))


BY_HAND = {  # layer: x = [first, second], g, y, ∂J/∂first and ∂J/∂second
    GLU(): ([8, log(3)], 16, 6, [12, 24]),
    SwiGLU(): ([log(3), 8], 4, 6 * log(3), [24 + 6 * log(3), 3 * log(3)]),
    GeGLU(): ([1, 2], 10, 2 * 0.8413447, [20 * (0.8413447 + 0.2419707), 8.413447]),
    GeGLU(True): ([1, 2], 10, 2 * 0.8411920, [20 * 1.0829641, 8.411920]),
    ReGLU(): ([3, 5], 2, 15, [10, 6]),
}


@pytest.mark.parametrize(("layer", "case"), BY_HAND.items(), ids=map(str, BY_HAND))
def test_gates_match_a_case_worked_by_hand(layer, case):
    x, g, y, dx = (jnp.array(row, jnp.float32).reshape(1, -1) for row in case)
    ours, residuals = layer.forward((), x)
    chex.assert_trees_all_close(ours, y, rtol=1e-6)
    chex.assert_trees_all_close(layer.input_gradient((), residuals, g), dx, rtol=1e-6)


def test_a_gate_that_is_shut_lets_nothing_through_either_way():
    y, residuals = ReGLU().forward((), jnp.array([[-3.0, 5.0]]))
    chex.assert_trees_all_equal(y, jnp.zeros((1, 1)))
    chex.assert_trees_all_equal(ReGLU().input_gradient((), residuals, jnp.ones((1, 1))), jnp.zeros((1, 2)))


@pytest.mark.parametrize("layer", ALL, ids=str)
def test_the_slope_at_the_kink_is_that_of_jax_grad(layer):
    x, g = jnp.tile(jnp.array([0.0, 0, 0, 1, 2, 3]), (4, 1)), normal(4, 3)
    _, pull_back = jax.vjp(lambda x: layer.forward((), x)[0], x)
    _, residuals = layer.forward((), x)
    chex.assert_trees_all_close(layer.input_gradient((), residuals, g), *pull_back(g), atol=1e-6)


@pytest.mark.parametrize("layer", ALL, ids=str)
def test_a_gate_keeps_one_array_of_the_size_of_its_input(layer):
    x = normal(4, 6)
    y, residuals = layer.forward((), x)
    chex.assert_shape(y, (4, 3))
    chex.assert_equal_shape([x, residuals])


@pytest.mark.parametrize("layer", ALL, ids=str)
def test_gates_stay_finite_far_out(layer):
    x = jnp.array([[-1e30, -1e4, 1e4, 1e30, 3.0, 3.0, 3.0, 3.0]])
    x = x[:, ::-1] if layer == GLU() else x
    y, residuals = layer.forward((), x)
    chex.assert_tree_all_finite((y, layer.input_gradient((), residuals, jnp.ones_like(y))))


def test_a_feed_forward_network_of_llama_is_one_dense_layer_a_gate_and_another():
    model = Serial(Dense(10), SwiGLU(), Dense(3))
    x = normal(2, 4, 3)
    params = model.init(jax.random.key(0), x)
    hidden = x @ params[0]["weight"]
    expected = (jax.nn.silu(hidden[..., :5]) * hidden[..., 5:]) @ params[2]["weight"]
    chex.assert_trees_all_close(model.forward(params, x)[0], expected, atol=1e-6)


def test_gates_are_position_wise():
    assert all(layer.position_wise for layer in ALL)


@pytest.mark.parametrize("layer", ALL, ids=str)
def test_gates_need_an_even_number_of_floating_point_features(layer):
    with pytest.raises(LayerError, match=r'layer "0", .*two halves of features, got float32\[4, 5\]'):
        Serial(layer).forward(((),), normal(4, 5))
    with pytest.raises(LayerError, match=r"expected \[examples, ..., features\].* got float32\[4\]"):
        layer.forward((), normal(4))
    with pytest.raises(LayerError, match=r"floating-point input, got int32\[4, 6\]"):
        layer.forward((), jnp.ones((4, 6), jnp.int32))
