import jax
import jax.numpy as jnp
import optax
import pytest

import jaxbp
from jaxbp import Dense, HalfSquaredError, Serial, Tanh, TrainState
from tests.support.arrays import normal

MODEL, LOSS, SGD = Serial(Dense(3), Tanh(), Dense(2)), HalfSquaredError(), optax.sgd(0.1, 0.9)
X, Y = normal(4, 3), normal(4, 2)


def fresh():
    return TrainState.create(MODEL, SGD, X, jax.random.key(0))


def test_without_donation_the_state_stays():
    state = fresh()
    after, _ = jaxbp.make_train_step(MODEL, LOSS, SGD, donate=False)(state, X, Y)
    assert MODEL(state.params, X).shape == (4, 2)
    again, _ = jaxbp.make_train_step(MODEL, LOSS, SGD)(state, X, Y)
    assert (after.params[0]["weight"] == again.params[0]["weight"]).all()


def test_fit_leaves_the_state_it_is_given():
    state = fresh()
    jaxbp.fit(MODEL, LOSS, SGD, (X, Y), state=state, epochs=1, progress=False)
    assert not state.params[0]["weight"].is_deleted()


@pytest.mark.parametrize(
    "use",
    [
        lambda target: MODEL(target, X),
        lambda target: jaxbp.value_and_grad(MODEL, LOSS)(target, X, Y),
        lambda target: jaxbp.evaluate(MODEL, LOSS, target, X, Y),
    ],
    ids=["inference", "gradient", "evaluation"],
)
def test_a_target_network_that_shared_the_donated_arrays_is_explained(use):
    state = fresh()
    target = state.params
    jaxbp.make_train_step(MODEL, LOSS, SGD)(state, X, Y)
    explained = r"params\[0\]\['bias'\] was donated .* target network .*jnp.copy, params\), or .*donate=False"
    with pytest.raises(ValueError, match=explained):
        use(target)


@pytest.mark.parametrize(
    "use",
    [
        lambda state: jaxbp.make_train_step(MODEL, LOSS, SGD)(state, X, Y),
        lambda state: jaxbp.fit(MODEL, LOSS, SGD, (X, Y), state=state, progress=False),
    ],
    ids=["step", "fit"],
)
def test_a_state_that_was_donated_before_is_explained(use):
    state = fresh()
    jaxbp.make_train_step(MODEL, LOSS, SGD)(state, X, Y)
    with pytest.raises(ValueError, match=r"state.params\[0\]\['bias'\] was donated to an earlier training step"):
        use(state)


def test_an_array_that_is_twice_in_the_arguments_is_explained():
    state = fresh()
    both = TrainState(state.params, (state.params, state.optimizer_state), state.step, state.key)
    step = jaxbp.make_train_step(MODEL, LOSS, SGD)
    with pytest.raises(ValueError, match=r"state.params\[0\]\['bias'\] and state.optimizer_state.* are one array"):
        step(both, X, Y)
    with pytest.raises(ValueError, match=r"state.key and an argument of the step are one array"):
        step(state, X, Y, state.key)
    jaxbp.make_train_step(MODEL, LOSS, SGD, donate=False)(state, X, Y, state.key)


def test_inside_another_jit_nothing_is_donated():
    state = fresh()
    step = jaxbp.make_train_step(MODEL, LOSS, SGD)
    jax.jit(lambda state: jax.lax.scan(lambda s, _: step(s, X, Y), state, length=2))(state)
    assert jnp.isfinite(state.params[0]["weight"]).all()
