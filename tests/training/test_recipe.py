from functools import partial

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import jaxbp
from jaxbp import L1, L2, BatchNorm, Dense, HalfSquaredError, InfoNCE, LoadBalance, Recipe, Serial, Softmax, Tanh
from tests.support.arrays import normal

MODEL, LOSS, SGD = Serial(Dense(3), Tanh(), Dense(2)), HalfSquaredError(), optax.sgd(0.1)
X, Y = normal(8, 3), normal(8, 2)


def fit(model=MODEL, loss=LOSS, data=(X, Y), **changes):
    return jaxbp.fit(model, loss, SGD, data, **{"epochs": 1, "batch_size": 8, "progress": False} | changes)


def start():
    return jaxbp.TrainState.create(MODEL, SGD, X[:1], jax.random.key(0))


def twice(site):
    """An edit."""
    return 2 * site.g


def test_equal_recipes_are_one_for_the_compiler():
    recipes = [Recipe(MODEL, LOSS, SGD, edits={"0": twice}, penalties={"1": L1(0.1)}) for _ in range(2)]
    assert recipes[0] == recipes[1]
    assert hash(recipes[0]) == hash(recipes[1])
    assert recipes[0] != Recipe(MODEL, LOSS, SGD, edits={"0": twice}, penalties={"1": L1(0.2)})


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_penalties_and_edits_reach_every_training_function(micro_batches):
    both = {"edits": {"0": twice}, "penalties": {"1": L2(0.5)}}
    state, history = fit(micro_batches=micro_batches, **both)
    by_hand, metrics = jaxbp.make_train_step(MODEL, LOSS, SGD, micro_batches, **both)(start(), X, Y)
    params = start().params
    _, gradient = jaxbp.value_and_grad(MODEL, LOSS, **both)(params, X, Y)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
    chex.assert_trees_all_close(state.params, expected, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(by_hand.params, expected, rtol=1e-4, atol=1e-6)
    assert history["loss"][0] == pytest.approx(float(metrics["loss"]), rel=1e-5)


def test_penalties_are_evaluated_too():
    penalties = {"1": L2(0.5), "": L1(0.1)}
    state, history = fit(penalties=penalties, validation=(X, Y))
    value, _ = jaxbp.value_and_grad(MODEL, LOSS, penalties=penalties)(state.params, X, Y)
    measured = jaxbp.evaluate(MODEL, LOSS, state.params, X, Y, 3, penalties=penalties)
    alone = jaxbp.evaluate(MODEL, LOSS, state.params, X, Y)["loss"]
    assert measured["loss"] == pytest.approx(float(value), rel=1e-5)
    assert measured["penalty.1"] + measured["penalty"] == pytest.approx(measured["loss"] - alone, rel=1e-4)
    assert history["validation_loss"][0] == pytest.approx(measured["loss"], rel=1e-5)


@pytest.mark.parametrize("given", [{"edits": {"9": twice}}, {"penalties": {"9": L1()}}], ids=["edits", "penalties"])
def test_unknown_paths_are_refused_before_training(given):
    with pytest.raises(ValueError, match='the model has no layer "9"'):
        fit(**given)


@pytest.mark.parametrize(
    ("loss", "penalties"), [(InfoNCE(), None), (LOSS, {"1": LoadBalance()})], ids=["loss", "penalty"]
)
def test_what_mixes_examples_is_refused_in_micro_batches(loss, penalties):
    model = Serial(Dense(3), Softmax(), Dense(2))
    for use in (jaxbp.make_train_step, partial(jaxbp.fit, data=(X, Y))):
        with pytest.raises(ValueError, match=r"mixes the examples .* do not add up .* use micro_batches=1"):
            use(model, loss, SGD, micro_batches=2, penalties=penalties)


def test_batch_normalisation_sees_each_micro_batch_alone():
    state, _ = fit(Serial(BatchNorm(), Dense(2)), micro_batches=2)
    assert jnp.isfinite(state.params[1]["weight"]).all()


def test_augmentation_may_see_the_targets():
    seen = []

    def augment(key, x, targets):
        seen.append((x.shape, targets.shape))
        return 0 * x, 0 * targets

    state, history = fit(augment=augment)
    assert seen[0] == ((8, 3), (8, 2))
    assert history["loss"][0] == 0
    chex.assert_trees_all_equal(state.params, start().params)  # from zeros nothing is learnt


def test_augmentation_of_inputs_alone_stays():
    class Doubled:
        def __call__(self, key, x):
            return 2 * x

    doubled = fit(data=(2 * X, Y))[0].params
    for augment in (Doubled(), lambda key, x: 2 * x, partial(lambda by, key, x: by * x, 2)):
        chex.assert_trees_all_close(fit(augment=augment)[0].params, doubled, rtol=1e-6)
