from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import pytest

import jaxbp
from jaxbp import Composite, Dense, Layer, Recompute, Repeat, Residual, Serial, Tanh
from jaxbp.core.paths import layers
from jaxbp.core.recording import Recorded, for_records, record_of, recorded
from tests.support.arrays import normal

MODEL = Serial(Dense(3), Repeat(Recompute(Residual(Serial(Dense(3), Tanh()))), 2), Dense(2))
X = normal(4, 3)


def look(model, watched):
    """Parameters, ∂J/∂x, and by path what every visit of a sweep sees: the record, where there is one, and gradient."""
    paths = {path for path, layer in layers(watched) if isinstance(layer, Recorded)}
    params = model.init(jax.random.key(0), X)
    y, records = watched.forward(params, X)

    def visit(site):
        return record_of(site) if site.path in paths else None, jaxbp.param_gradient(site)

    dx, seen = jaxbp.sweep(watched, params, records, y, visit)
    return params, dx, jaxbp.leaves(watched, seen)


def test_a_recorded_model_computes_the_same_and_shows_what_every_leaf_saw():
    params, dx, seen = look(MODEL, recorded(MODEL))
    y, residuals = MODEL.forward(params, X)
    expected, gradient = jaxbp.sweep(MODEL, params, residuals, y)
    chex.assert_trees_all_close(dx, expected, rtol=1e-6)
    for path, own in jaxbp.leaves(MODEL, gradient).items():
        chex.assert_trees_all_close(seen[path][1], own, rtol=1e-6)
    chex.assert_trees_all_equal(seen["2"][0].y, y)
    chex.assert_shape(seen["1.body.body.body.0"][0].y, (2, 4, 3))


def test_a_composite_is_recorded_as_a_whole():
    params, _, seen = look(MODEL, recorded(MODEL, ["1.body"]))
    record, gradient = seen["1.body"]
    hidden = Dense(3)(params[0], X)
    chex.assert_trees_all_close(record.x[0], hidden, rtol=1e-6)
    chex.assert_trees_all_close(record.y[1], MODEL.layers[1](params[1], hidden), rtol=1e-5)
    chex.assert_trees_all_equal_shapes(gradient, params[1]["body"])


@dataclass(frozen=True)
class Twice(Composite):
    body: Layer

    def wire(self, call, x):
        return call("body", x), call("body", call("body", x))


def test_of_a_shared_layer_all_uses_are_recorded():
    model = Twice(Dense(3))
    params, _, seen = look(model, recorded(model))
    record, _ = seen["body"]
    once = Dense(3)(params["body"], X)
    chex.assert_trees_all_equal(tuple(record.x), (X, X, once))
    chex.assert_trees_all_equal(record.y[1], once)


def test_edits_see_the_layers_of_the_model_itself():
    model = Serial(Dense(3), Tanh())
    params = model.init(jax.random.key(0), X)

    def half_where_positive(site):
        assert site.layer == Tanh()
        return jnp.where(site.residuals > 0, site.g / 2, site.g)

    edits = {"1": half_where_positive}
    found = []
    for watched, own in ((model, edits), (recorded(model), for_records(edits))):
        y, residuals = watched.forward(params, X)
        found.append(jaxbp.sweep(watched, params, residuals, y, edits=own))
    chex.assert_trees_all_equal(*found)


class Raises(Tanh):
    def input_gradient(self, params, residuals, g):
        raise RuntimeError("I don't know")


def test_records_can_be_taken_where_a_layer_has_no_backward_pass():
    model = Serial(Dense(3), Raises())
    _, dx, seen = look(model, recorded(model, sends=False))
    assert list(seen) == ["0", "1"]
    assert not dx.any()


def test_a_path_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match='no layer "7"'):
        recorded(MODEL, ["7"])
