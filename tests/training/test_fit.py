import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp import Dense, Dropout, HalfSquaredError, LayerError, Recipe, Serial, SoftmaxCrossEntropy, Tanh, TrainState
from jaxbp.training.fit import epoch_order
from tests.support.arrays import labels, normal

MODEL, LOSS, SGD = Serial(Dense(3), Dropout(0.2), Tanh(), Dense(2)), SoftmaxCrossEntropy(), optax.sgd(0.1, 0.9)
X, Y = normal(10, 3), labels(10, 2)


def fresh():
    return TrainState.create(MODEL, SGD, X, jax.random.key(0))


def fit(**changes):
    return jaxbp.fit(MODEL, LOSS, SGD, (X, Y), **{"batch_size": 4, "epochs": 2, "progress": False} | changes)


@pytest.mark.parametrize(("batch_size", "sizes"), [(5, [5, 5]), (4, [4, 4, 2]), (16, [10])])
def test_an_epoch_is_a_loop_of_steps_over_every_example_once(batch_size, sizes):
    state = fresh()
    order = epoch_order(state, 10)
    assert sorted(order.tolist()) == list(range(10))
    after, losses = jaxbp.train_epoch(Recipe(MODEL, LOSS, SGD, batch_size), state, (X, Y))
    step, slow = jaxbp.make_train_step(MODEL, LOSS, SGD), []
    for start, size in zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True):
        at = order[start : start + size]
        state, metrics = step(state, X[at], Y[at])
        slow.append(metrics["loss"])
    chex.assert_trees_all_close(losses, jnp.array(slow), rtol=1e-5)
    chex.assert_trees_all_close(after.params, state.params, rtol=1e-4, atol=1e-6)
    assert after.step == len(sizes)


def test_each_epoch_takes_another_order():
    state = fresh()
    after, _ = jaxbp.train_epoch(Recipe(MODEL, LOSS, SGD, 4), state, (X, Y))
    assert (epoch_order(state, 10) != epoch_order(after, 10)).any()


def test_fit_lowers_the_loss_and_tells_its_history():
    _, history = fit(epochs=30, validation=(X, Y))
    assert set(history) == {"loss", "seconds", "validation_loss", "validation_accuracy"}
    assert all(len(numbers) == 30 for numbers in history.values())
    assert history["validation_loss"][-1] < history["validation_loss"][0]


def test_the_loss_of_an_epoch_is_the_mean_over_its_examples():
    still = optax.sgd(0.0)
    model = Serial(Dense(2))
    _, history = jaxbp.fit(model, LOSS, still, (X, Y), epochs=1, batch_size=4, progress=False)
    params = TrainState.create(model, still, X, jax.random.key(0)).params
    assert history["loss"][0] == pytest.approx(jaxbp.evaluate(model, LOSS, params, X, Y)["loss"], rel=1e-5)


def test_the_same_key_gives_the_same_training_and_another_key_another():
    (first, _), (same, _), (other, _) = fit(), fit(key=jax.random.key(0)), fit(key=jax.random.key(1))
    chex.assert_trees_all_equal(first.params, same.params)
    assert (first.params[0]["weight"] != other.params[0]["weight"]).any()


def test_training_resumes_where_it_stopped():
    whole, _ = fit(epochs=4)
    half, _ = fit(epochs=2)
    resumed, _ = fit(epochs=2, state=half)
    chex.assert_trees_all_equal(resumed.params, whole.params)
    chex.assert_trees_all_equal(resumed.optimizer_state, whole.optimizer_state)
    assert resumed.step == 12


def test_micro_batches_change_memory_and_not_the_result():
    model = Serial(Dense(3), Tanh(), Dense(2))
    runs = [
        jaxbp.fit(model, LOSS, SGD, (X, Y), epochs=1, batch_size=5, micro_batches=m, progress=False)[0] for m in (1, 5)
    ]
    chex.assert_trees_all_close(runs[0].params, runs[1].params, rtol=1e-4, atol=1e-6)


def test_what_is_left_over_is_cut_into_micro_batches_too():
    model = Serial(Dense(3), Tanh(), Dense(2))
    runs = [
        jaxbp.fit(model, LOSS, SGD, (X, Y), epochs=1, batch_size=7, micro_batches=m, progress=False)[0] for m in (1, 7)
    ]
    chex.assert_trees_all_close(runs[0].params, runs[1].params, rtol=1e-4, atol=1e-6)
    jaxbp.fit(model, LOSS, SGD, (X[:9], Y[:9]), epochs=1, batch_size=4, micro_batches=2, progress=False)


@pytest.mark.parametrize("name", ["batch_size", "micro_batches"])
def test_batches_of_no_examples_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be positive, not 0"):
        fit(**{name: 0})


def test_augmentation_is_applied_to_the_batches_of_training_and_not_to_validation():
    def blank(key, x):
        return 0 * x

    state, history = fit(augment=blank, epochs=1, validation=(X, Y))
    start = TrainState.create(MODEL, SGD, X[:1], jax.random.key(0))
    chex.assert_trees_all_equal(state.params[0]["weight"], start.params[0]["weight"])  # from zeros nothing is learnt
    measured = jaxbp.evaluate(MODEL, LOSS, state.params, X, Y)
    assert history["validation_loss"][0] == pytest.approx(measured["loss"], rel=1e-5)


def test_something_of_ones_own_is_called_after_each_epoch():
    calls = []
    state, history = fit(on_epoch=lambda state, metrics: calls.append((int(state.step), metrics["loss"])))
    assert [step for step, _ in calls] == [3, 6]
    assert [loss for _, loss in calls] == history["loss"]
    assert state.step == 6


def test_the_bar_shows_loss_and_epochs(capsys):
    fit(progress=True)
    shown = capsys.readouterr().err
    assert "training: 100%" in shown
    assert "loss=" in shown


def test_trees_of_numpy_arrays_are_data():
    state, history = jaxbp.fit(MODEL, LOSS, SGD, (np.asarray(X), np.asarray(Y)), epochs=1, batch_size=4, progress=False)
    same, _ = fit(epochs=1)
    chex.assert_trees_all_equal(state.params, same.params)
    assert len(history["loss"]) == 1


def test_evaluation_is_the_mean_over_all_examples_whatever_the_batch_size():
    params = fresh().params
    outputs, _ = MODEL.forward(params, X)
    loss, _ = LOSS.forward(outputs, Y)
    accuracy = float(jnp.mean(jnp.argmax(outputs, -1) == Y))
    for batch_size in (3, 5, 100):
        measured = jaxbp.evaluate(MODEL, LOSS, params, X, Y, batch_size)
        assert measured == pytest.approx({"loss": float(loss), "accuracy": accuracy}, rel=1e-5)


def test_evaluation_leaves_ignored_labels_out():
    loss, params = SoftmaxCrossEntropy(ignored_label=-1), fresh().params
    some = jaxbp.evaluate(MODEL, loss, params, X, Y.at[6:].set(-1), batch_size=4)
    assert some == pytest.approx(jaxbp.evaluate(MODEL, loss, params, X[:6], Y[:6]), rel=1e-5)


def test_evaluation_of_a_regression_has_a_loss_alone():
    measured = jaxbp.evaluate(Dense(3), HalfSquaredError(), Dense(3).init(jax.random.key(0), X), X, X)
    assert set(measured) == {"loss"}


def test_data_with_a_nan_are_refused_before_training():
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 of its 10 examples, first in example 7"):
        jaxbp.fit(MODEL, LOSS, SGD, (X.at[7, 1].set(jnp.nan), Y), progress=False)


def test_inputs_and_targets_must_be_equally_many():
    with pytest.raises(
        ValueError, match=r"equally many examples \(the first axis\), got x float32\[10, 3\], targets int32\[9\]"
    ):
        jaxbp.fit(MODEL, LOSS, SGD, (X, Y[:9]), progress=False)


def test_a_label_out_of_range_is_refused_before_training():
    with pytest.raises(ValueError, match=r"label 2 is out of range: outputs float32\[10, 2\] have 2 classes"):
        jaxbp.fit(MODEL, LOSS, SGD, (X, Y.at[3].set(2)), progress=False)


def test_validation_data_are_looked_at_before_training():
    with pytest.raises(ValueError, match="label 5 is out of range"):
        fit(validation=(X, jnp.full(10, 5)))
    with pytest.raises(LayerError, match="expected 3 input features"):
        fit(validation=(normal(10, 4), Y))


@pytest.mark.parametrize("data", [(X[:0], Y[:0])])
def test_no_data_is_an_error(data):
    with pytest.raises(ValueError, match="got an empty batch"):
        jaxbp.fit(MODEL, LOSS, SGD, data, progress=False)
    with pytest.raises(ValueError, match="got an empty batch"):
        jaxbp.evaluate(MODEL, LOSS, fresh().params, *data)


@pytest.mark.parametrize("examples", [2, 3])
def test_a_last_batch_may_be_smaller_or_alone(examples):
    model = Dense(3)
    data = np.ones((examples, 2), np.float32), np.arange(examples)
    state, history = jaxbp.fit(model, LOSS, optax.sgd(0.1), data, epochs=1, batch_size=2, progress=False)
    assert int(state.step) == -(-examples // 2)
    assert np.isfinite(history["loss"][0])
