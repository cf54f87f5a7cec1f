import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp import Dense, Dropout, Recipe, Serial, SoftmaxCrossEntropy, Tanh, TrainState
from tests.support.arrays import labels, normal

MODEL, LOSS, SGD = Serial(Dense(3), Dropout(0.2), Tanh(), Dense(2)), SoftmaxCrossEntropy(), optax.sgd(0.1, 0.9)
X, Y = normal(10, 3), labels(10, 2)
KEY = jax.random.key(3)


def members(state):
    return [jax.tree.map(lambda a: a[i], state) for i in range(3)]  # noqa: B023


def fit(state, **changes):
    return jaxbp.fit(MODEL, LOSS, SGD, (X, Y), state=state, batch_size=4, epochs=2, progress=False, **changes)


@pytest.fixture
def ensemble():
    return TrainState.create_ensemble(MODEL, SGD, X, KEY, 3)


def test_an_ensemble_is_a_stack_of_fresh_states(ensemble):
    assert ensemble.is_stacked
    for key, member in zip(jax.random.split(KEY, 3), members(ensemble), strict=True):
        assert not member.is_stacked
        chex.assert_trees_all_close(member.params, TrainState.create(MODEL, SGD, X, key).params, rtol=1e-6)
    with pytest.raises(ValueError, match="at least one member, not 0"):
        TrainState.create_ensemble(MODEL, SGD, X, KEY, 0)


def test_fit_trains_every_member_as_it_would_be_trained_alone(ensemble):
    state, history = fit(ensemble, validation=(X, Y))
    for i, member in enumerate(members(ensemble)):
        one, its_history = fit(member, validation=(X, Y))
        chex.assert_trees_all_close(members(state)[i].params, one.params, rtol=1e-4, atol=1e-5)
        for name in ("loss", "validation_loss", "validation_accuracy"):
            np.testing.assert_allclose([numbers[i] for numbers in history[name]], its_history[name], rtol=1e-4)
    assert all(isinstance(seconds, float) for seconds in history["seconds"])
    assert state.step.tolist() == [6, 6, 6]


def test_a_step_and_an_epoch_train_every_member_too(ensemble):
    after, losses = jaxbp.train_epoch(Recipe(MODEL, LOSS, SGD, 4), ensemble, (X, Y))
    assert losses.shape == (3, 3)
    assert after.step.tolist() == [3, 3, 3]
    step = jaxbp.make_train_step(MODEL, LOSS, SGD, donate=False)
    state, metrics = step(ensemble, X, Y)
    for i, member in enumerate(members(ensemble)):
        one, its = step(member, X, Y)
        chex.assert_trees_all_close(members(state)[i].params, one.params, rtol=1e-4, atol=1e-6)
        assert metrics["loss"][i] == pytest.approx(float(its["loss"]), rel=1e-5)


def test_evaluation_of_a_state_tells_each_members_numbers(ensemble):
    measured = jaxbp.evaluate(MODEL, LOSS, ensemble, X, Y, 3)
    for i, member in enumerate(members(ensemble)):
        alone = jaxbp.evaluate(MODEL, LOSS, member.params, X, Y, 3)
        assert {name: numbers[i] for name, numbers in measured.items()} == pytest.approx(alone, rel=1e-5)
        assert jaxbp.evaluate(MODEL, LOSS, member, X, Y, 3) == pytest.approx(alone, rel=1e-6)


def test_the_member_that_diverges_is_explained(ensemble):
    bad = ensemble.params[0]["weight"].at[1].set(jnp.nan)
    params = ({**ensemble.params[0], "weight": bad}, *ensemble.params[1:])
    with pytest.raises(jaxbp.Diverged, match='layer "0", Dense') as caught:
        fit(TrainState(params, ensemble.optimizer_state, ensemble.step, ensemble.key))
    assert caught.value.step == 0
