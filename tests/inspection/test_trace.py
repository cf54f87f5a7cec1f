import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Dense, HalfSquaredError, Serial, Sigmoid
from tests.support.inspected import BOTH, MODEL, PAIR, TARGETS, TREES, X, Y


@pytest.fixture(scope="module")
def params():
    return MODEL.init(jax.random.key(0), X)


def test_a_trace_holds_every_number_of_a_case_worked_by_hand():
    """z = 0, a = ½, y = 1, J = ⅛; δ(a) = -½, δ(z) = -⅛."""
    model = Serial(Dense(1), Sigmoid())
    params = ({"weight": jnp.array([[1.0]]), "bias": jnp.array([-2.0])}, ())
    seen = jaxbp.trace(model, HalfSquaredError(), params, jnp.array([[2.0]]), jnp.array([[1.0]]))
    assert seen.loss == 0.125
    assert seen.outputs == 0.5
    dense, sigmoid = seen.layers["0"], seen.layers["1"]
    assert (dense.input, dense.output, dense.delta) == (2, 0, -0.125)
    assert (sigmoid.input, sigmoid.output, sigmoid.delta) == (0, 0.5, -0.5)
    chex.assert_trees_all_equal(dense.gradient, {"weight": jnp.array([[-0.25]]), "bias": jnp.array([-0.125])})
    text = str(seen)
    for words in ['layer "0", Dense(1)', "  z  [1, 1]", "  a  [1, 1]", "δ = ∂J/∂z", "δ = ∂J/∂a", "∂J/∂weight", "-0.25"]:
        assert words in text


def test_a_trace_is_what_value_and_grad_computes(params):
    seen = jaxbp.trace(MODEL, HalfSquaredError(), params, X, Y)
    value, gradient = jaxbp.value_and_grad(MODEL, HalfSquaredError())(params, X, Y)
    assert seen.loss == value
    by_path = jaxbp.leaves(MODEL, gradient)
    for path, at in seen.layers.items():
        chex.assert_trees_all_close(at.gradient, by_path[path], rtol=1e-6)
    assert 'layer "1.body.body", Tanh()' in str(seen)


def test_a_trace_shows_every_use_of_a_shared_layer_and_trees_of_inputs_and_outputs():
    params = TREES.init(jax.random.key(0), PAIR)
    seen = jaxbp.trace(TREES, BOTH, params, PAIR, TARGETS)
    value, gradient = jaxbp.value_and_grad(TREES, BOTH)(params, PAIR, TARGETS)
    assert seen.loss == value
    shared, by_path = seen.layers["0.body.0"], jaxbp.leaves(TREES, gradient)
    chex.assert_trees_all_close(shared.gradient, by_path["0.body.0"], rtol=1e-6)
    chex.assert_trees_all_equal(tuple(shared.input), (PAIR["left"], PAIR["right"]))
    inputs, deltas = jnp.concatenate(shared.input), jnp.concatenate(shared.delta)
    np.testing.assert_allclose(inputs.T @ deltas, shared.gradient["weight"], rtol=1e-5)
    assert set(seen.outputs) == {"label", "size"}
    text = str(seen)
    for words in ["x.left  [4, 3]", "z, use 1 of 2,  [4, 2]", "z, use 2 of 2,", "δ = ∂J/∂a, use 2 of 2,"]:
        assert words in text
