from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest

import jaxbp
from jaxbp import (
    Composite,
    Dense,
    Embedding,
    FeedbackAlignment,
    Layer,
    LayerError,
    Serial,
    Vmap,
    WeightMirror,
    init_feedback,
    mirror_weights,
)
from jaxbp.credit.feedback import angle
from tests.support.credit import KEY
from tests.support.networks import CONVOLUTIONAL, DEEP, MLP, batch


@pytest.mark.parametrize(
    ("model", "path"), [(MLP, "2"), (CONVOLUTIONAL, "3"), (DEEP, "1.body.0")], ids=["mlp", "conv", "deep"]
)
def test_a_weight_mirror_learns_the_direction_of_the_weights(model, path):
    params, x, _ = batch(model)
    rules = {path: WeightMirror(rate=0.02, decay=0.02)}
    fixed, _ = init_feedback(model, rules, KEY, params, x)

    def turn(fixed, key):
        return mirror_weights(model, rules, params, fixed, jnp.tile(x, (10,) + (1,) * (x.ndim - 1)), key), None

    after, _ = jax.lax.scan(turn, fixed, jax.random.split(KEY, 300))
    weight = jaxbp.leaves(model, params)[path]["weight"]
    assert float(angle(fixed[path], weight)) > 40
    assert float(angle(after[path], weight)) < 25  # padded borders see less of the weights


def test_a_mirror_for_a_layer_that_is_not_linear_is_refused_by_name():
    model, x = (
        Serial(jaxbp.FromAutodiff(lambda p, x: jnp.tanh(x @ p), initial=lambda key, x: jnp.ones((3, 2)))),
        jnp.ones((2, 3)),
    )
    params = model.init(KEY, x)
    rules = {"": WeightMirror()}
    fixed, _ = init_feedback(model, rules, KEY, params, x)
    with pytest.raises(LayerError, match=r'layer "0".*not linear'):
        mirror_weights(model, rules, params, fixed, x, KEY)


@dataclass(frozen=True)
class Siamese(Composite):
    body: Layer

    def wire(self, call, x):
        return call("body", x), call("body", x)


@pytest.mark.parametrize("wrap", [Siamese, lambda layer: Vmap(layer, 2)], ids=["shared", "vmap"])
def test_a_mirror_reaches_shared_and_stacked_layers(wrap):
    model, x, rules = wrap(Dense(4)), jnp.ones((200, 3)), {"": WeightMirror(rate=0.5, decay=0.0)}
    params = model.init(KEY, x)
    (fixed, _), weight = init_feedback(model, rules, KEY, params, x), params["body"]["weight"]
    after = mirror_weights(model, rules, params, fixed, x, KEY)
    estimate = (after["body"][0] - fixed["body"][0]) / 0.5
    assert float(angle(estimate, weight)) < 15


def test_noise_for_a_layer_that_looks_up_tokens_is_refused():
    model, x = Serial(Embedding(5, 3)), jnp.array([[1, 2]])
    params = model.init(KEY, x)
    fixed, _ = init_feedback(model, {"": WeightMirror()}, KEY, params, x)
    with pytest.raises(LayerError, match=r'layer "0", Embedding\(5, 3\): looks up integers'):
        mirror_weights(model, {"": WeightMirror()}, params, fixed, x, KEY)


def test_rules_that_do_not_mirror_stay_as_they_are():
    params, x, _ = batch(MLP)
    rules = {"0": FeedbackAlignment(), "2": WeightMirror()}
    fixed, _ = init_feedback(MLP, rules, KEY, params, x)
    after = mirror_weights(MLP, rules, params, fixed, x, KEY)
    assert after["0"] is fixed["0"]
    assert (after["2"][0] != fixed["2"][0]).all()
