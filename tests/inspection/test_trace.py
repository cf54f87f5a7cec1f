import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import jaxbp
from jaxbp import Concatenate, Dense, HalfSquaredError, Parallel, Repeat, Residual, Serial, Sigmoid, Tanh
from tests.support.arrays import normal

MODEL = Serial(Dense(3), Repeat(Residual(Tanh()), 2), Parallel(Dense(2), Tanh()), Concatenate(), Dense(1))
X, Y = normal(4, 3), normal(4, 1)


@pytest.fixture(scope="module")
def params():
    return MODEL.init(jax.random.key(0), X)


def test_a_summary_lists_every_layer_with_its_output_and_parameters():
    lines = jaxbp.summary(MODEL, X).splitlines()
    assert [line.split() for line in lines if line[:1].isdigit()] == [
        ["0", "Dense(3)", "float32[4,", "3]", "12"],
        ["1.body.body", "Tanh()", "float32[2,", "4,", "3]", "0"],
        ["2.0", "Dense(2)", "float32[4,", "2]", "8"],
        ["2.1", "Tanh()", "float32[4,", "3]", "0"],
        ["3", "Concatenate()", "float32[4,", "5]", "0"],
        ["4", "Dense(1)", "float32[4,", "1]", "6"],
    ]
    assert lines[-1].split() == ["total", "26"]


def test_a_summary_needs_shapes_alone_and_large_numbers_have_commas():
    text = jaxbp.summary(Dense(1000), jax.ShapeDtypeStruct((1, 10**6), jnp.float32))
    assert "1,000,001,000" in text


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


def test_sizes_are_root_mean_squares_by_layer():
    model, params = Dense(1, bias=False), {"weight": jnp.array([[2.0]])}
    x, y = jnp.array([[3.0], [4.0]]), jnp.zeros((2, 1))  # outputs 6, 8; δ = 3, 4 after the mean; ∂J/∂W = 9 + 16
    sizes = jaxbp.signal_sizes(model, HalfSquaredError(), params, x, y)[""]
    assert sizes == pytest.approx({"activation": 50**0.5, "delta": 50**0.5, "gradient": 25})


def test_layers_without_parameters_have_no_gradient_size(params):
    sizes = jaxbp.signal_sizes(MODEL, HalfSquaredError(), params, X, Y)
    assert set(sizes["1.body.body"]) == {"activation", "delta"}
    assert set(sizes["0"]) == {"activation", "delta", "gradient"}
    assert all(np.isfinite(list(at.values())).all() for at in sizes.values())


def deep(gain):
    """Sizes in ten layers that multiply signals by `gain`."""
    model = Serial(*[Dense(1, bias=False)] * 10)
    params = ({"weight": jnp.array([[gain]])},) * 10
    return jaxbp.signal_sizes(model, HalfSquaredError(), params, jnp.ones((1, 1)), jnp.zeros((1, 1)))


@pytest.mark.parametrize(("gain", "word"), [(0.1, "vanishing"), (10.0, "exploding"), (1.0, "")])
def test_a_figure_says_where_signals_vanish_or_explode(gain, word):
    figure = jaxbp.plot_flow([deep(1.0), deep(gain)])
    assert isinstance(figure, Figure)
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 3
    for title in titles[:2]:
        assert word in title
        assert bool(word) == ("ing" in title.splitlines()[-1])
