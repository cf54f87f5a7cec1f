import chex
import jax
import jax.numpy as jnp
import pytest

import jaxbp
from jaxbp import LSTM, Dense, Dropout, Layer, Recompute, Repeat, Residual, Serial, Tanh, Vmap
from jaxbp.core.insertion import insert, is_called, put_in, replace_layers, take_out
from jaxbp.core.paths import layers
from tests.support.arrays import normal

MODEL = Serial(
    Dense(3), Dropout(0.5), Repeat(Recompute(Serial(Dense(3), Residual(Tanh()))), 2), Vmap(Dense(2), 3), Dropout(0.5)
)
PATHS = ["", "0", "1", "2", "2.body", "2.body.body.0", "2.body.body.1", "2.body.body.1.body", "3.body"]
X = normal(4, 3)


class Doubler(Layer):
    """The identity in the forward pass, 2 φ in the backward pass."""

    def init(self, key, x):
        return jnp.ones(())

    def forward(self, factor, x, rng=None):
        return x, ()

    def input_gradient(self, factor, residuals, g):
        return 2 * factor * g

    def param_gradient(self, factor, residuals, g):
        return jnp.sum(g)


@pytest.fixture(scope="module")
def params():
    return MODEL.init(jax.random.key(0), X)


@pytest.mark.parametrize("path", PATHS)
def test_an_inserted_layer_acts_at_every_path_and_the_layers_ahead_of_it_draw_the_same_numbers(params, path):
    model, rng = insert(MODEL, {path: Doubler()}), jax.random.key(1)
    _, drawn = take_out(MODEL, model.init(jax.random.key(2), X), [path])
    inside = put_in(MODEL, params, drawn)
    y, residuals = model.forward(inside, X, rng)
    plain_y, plain_residuals = MODEL.forward(params, X, rng)
    chex.assert_trees_all_equal(y, plain_y)
    edits = {path: lambda site: jax.tree.map(lambda g: 2 * g, site.g)}
    expected = jaxbp.sweep(MODEL, params, plain_residuals, y, edits=edits)
    dx, collected = jaxbp.sweep(model, inside, residuals, y)
    gradient, found = take_out(MODEL, collected, [path])
    chex.assert_trees_all_close((dx, gradient), expected, rtol=1e-5)
    chex.assert_trees_all_equal_shapes(found, drawn)
    assert list(found) == [path]


def test_what_is_inserted_inside_a_repeat_has_parameters_for_each_of_its_layers(params):
    path = "2.body.body.0"
    _, drawn = take_out(MODEL, insert(MODEL, {path: Doubler()}).init(jax.random.key(2), X), [path])
    chex.assert_shape(drawn[path], (2,))


def test_trees_are_put_in_and_taken_out_again(params):
    entries = {"": 1, "2": 2, "2.body.body.0": 3, "3.body": 4}
    tree, found = take_out(MODEL, put_in(MODEL, params, entries), entries)
    assert found == entries
    chex.assert_trees_all_equal(tree, params)
    assert put_in(MODEL, None, entries) is None


def test_a_layer_can_be_replaced_at_any_path():
    replaced = dict(layers(replace_layers(MODEL, {"2.body.body.1": Tanh(), "3": Dense(2)})))
    assert (replaced["2.body.body.1"], replaced["3"]) == (Tanh(), Dense(2))
    assert "3.body" not in replaced
    assert replaced["2.body.body.0"] == Dense(3)


def test_a_layer_whose_parameters_a_scan_uses_is_not_called():
    model, x = Serial(Repeat(LSTM(3), 2), Dense(2)), normal(4, 5, 3)
    params = model.init(jax.random.key(0), x)
    called = {path: is_called(model, path, params, x) for path in ("0.body", "0.body.input", "0.body.recurrent", "1")}
    assert called == {"0.body": True, "0.body.input": True, "0.body.recurrent": False, "1": True}
