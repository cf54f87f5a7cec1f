import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from experiments.shared.image_training import adamw, train
from experiments.shared.weight_averaging import average_of, averaged
from jaxbp.layers.batch_norm import BatchNorm


def test_early_weights_are_forgotten_fast_and_later_ones_as_asked():
    optimizer = averaged(optax.sgd(1.0), decay=0.15)
    params = {"weight": jnp.array(0.0)}
    state = optimizer.init(params)
    for average in [0.9, 0.15 * 0.9 + 0.85 * 2]:  # λ is 1/10, then 2/11, which 0.15 is less than; θ is 1, then 2
        updates, state = optimizer.update({"weight": jnp.array(-1.0)}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(state.average["weight"], average, rtol=1e-6)


def test_the_weights_learn_as_without_the_average():
    model, loss = jaxbp.Serial(jaxbp.Dense(3)), jaxbp.SoftmaxCrossEntropy()
    data = (np.ones((4, 2), np.float32), np.arange(4) % 3)
    with_, without = (
        jaxbp.fit(model, loss, optimizer, data, epochs=2, batch_size=2, progress=False)[0]
        for optimizer in (averaged(optax.adam(0.1), 0.9), optax.adam(0.1))
    )
    jax.tree.map(np.testing.assert_array_equal, with_.params, without.params)
    assert not np.array_equal(average_of(model, with_)[0]["weight"], with_.params[0]["weight"])


def test_running_statistics_are_the_last_ones():
    model = jaxbp.Serial(BatchNorm())
    optimizer = averaged(optax.adamw(0.1), 0.9)
    state = jaxbp.TrainState.create(model, optimizer, jnp.ones((4, 2)), jax.random.key(0))
    step = jaxbp.make_train_step(model, jaxbp.HalfSquaredError(), optimizer)
    state, _ = step(state, jnp.arange(8.0).reshape(4, 2), jnp.zeros((4, 2)))
    (average,), (last,) = average_of(model, state), state.params
    np.testing.assert_array_equal(average["mean"], last["mean"])
    assert not np.array_equal(average["scale"], last["scale"])


def test_a_decay_of_one_would_keep_the_first_weights_for_ever():
    with pytest.raises(ValueError, match="needs 0 <= decay < 1, not 1"):
        averaged(optax.sgd(0.1), 1)


def test_training_measures_the_average_beside_the_weights_and_returns_it():
    model, loss = jaxbp.Serial(jaxbp.Dense(2)), jaxbp.SoftmaxCrossEntropy()
    data = (np.eye(4, dtype=np.float32), np.arange(4) % 2)
    trained = train(
        model, loss, adamw(0.1, 0.0, 4), data, data, epochs=4, batch_size=4, seed=0, averaging=0.9, moments=1
    )
    assert {len(trained.history[f"averaged_{what}"]) for what in ("loss", "accuracy")} == {4}
    measured = jaxbp.evaluate(model, loss, trained.params, *data)
    assert measured["loss"] == pytest.approx(trained.history["averaged_loss"][-1], rel=1e-5)
    assert measured["loss"] != pytest.approx(trained.history["validation_loss"][-1], rel=1e-3)
