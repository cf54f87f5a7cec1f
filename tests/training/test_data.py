import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp import (
    Dense,
    HalfSquaredError,
    Parallel,
    Reduction,
    Select,
    Serial,
    SoftmaxCrossEntropy,
    SumOfLosses,
    Tanh,
    TrainState,
)
from tests.support.arrays import labels, normal

SGD = optax.sgd(0.1)
TOWERS = Serial(
    Parallel(Serial(Select("user"), Dense(3)), Serial(Select("item"), Dense(3))),
    jaxbp.Add(),
    Tanh(),
    Parallel(rating=Dense(1), click=Dense(2)),
)
BOTH = SumOfLosses({"rating": (HalfSquaredError(), 1.0), "click": (SoftmaxCrossEntropy(), 0.5)})
X = {"user": normal(10, 4), "item": normal(10, 2)}
Y = {"rating": normal(10, 1), "click": labels(10, 2)}
WEIGHTS = jnp.array([1.0, 2, 0, 1, 1, 0.5, 1, 3, 1, 1])


def fit(model, loss, data, **changes):
    return jaxbp.fit(model, loss, SGD, data, **{"epochs": 2, "batch_size": 4, "progress": False} | changes)


def after_one_step(gradient, start):
    return jax.tree.map(lambda p, g: p - 0.1 * g, start, gradient)


def test_inputs_outputs_and_targets_may_be_trees():
    state, history = fit(TOWERS, BOTH, (X, Y), epochs=20, validation=(X, Y))
    assert history["loss"][-1] < history["loss"][0]
    assert {"validation_rating.loss", "validation_click.loss", "validation_click.accuracy"} <= set(history)
    measured = jaxbp.evaluate(TOWERS, BOTH, state.params, X, Y, batch_size=3)
    assert measured["loss"] == pytest.approx(measured["rating.loss"] + 0.5 * measured["click.loss"], rel=1e-5)
    assert measured["loss"] == pytest.approx(float(jaxbp.value_and_grad(TOWERS, BOTH)(state.params, X, Y)[0]), rel=1e-5)


def test_trees_are_cut_into_micro_batches():
    states = [fit(TOWERS, BOTH, (X, Y), batch_size=5, micro_batches=parts)[0] for parts in (1, 5)]
    chex.assert_trees_all_close(states[0].params, states[1].params, rtol=1e-4, atol=1e-6)


def test_trees_of_numpy_arrays_are_data_too():
    data = jax.tree.map(np.asarray, (X, Y))
    chex.assert_trees_all_equal(fit(TOWERS, BOTH, data)[0].params, fit(TOWERS, BOTH, (X, Y))[0].params)


@pytest.mark.parametrize("reduction", list(Reduction))
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_data_may_have_weights_and_the_losss_reduction_holds(reduction, micro_batches):
    model, loss, x, y = Dense(2), SoftmaxCrossEntropy(reduction=reduction), X["user"], labels(10, 2)
    state, history = fit(model, loss, (x, y, WEIGHTS), epochs=1, batch_size=10, micro_batches=micro_batches)
    start = TrainState.create(model, SGD, x, jax.random.key(0)).params
    value, gradient = jaxbp.value_and_grad(model, loss)(start, x, y, weights=WEIGHTS)
    chex.assert_trees_all_close(state.params, after_one_step(gradient, start), rtol=1e-4, atol=1e-5)
    assert history["loss"][0] == pytest.approx(float(value), rel=1e-5)


def test_evaluation_and_validation_may_have_weights():
    model, loss, x, y = Dense(2), SoftmaxCrossEntropy(), X["user"], labels(10, 2)
    state, history = fit(model, loss, (x, y), validation=(x, y, WEIGHTS))
    value, _ = jaxbp.value_and_grad(model, loss)(state.params, x, y, weights=WEIGHTS)
    measured = jaxbp.evaluate(model, loss, state.params, x, y, 4, weights=WEIGHTS)
    assert measured["loss"] == pytest.approx(float(value), rel=1e-5)
    assert history["validation_loss"][-1] == pytest.approx(measured["loss"], rel=1e-5)


def test_weights_of_both_signs_train_where_the_reduction_allows_them():
    """The gradient of a policy: log-probabilities of what was done, times the advantages."""
    advantages, x, y = jnp.array([1.0, -1.0] * 5), X["user"], labels(10, 2)
    loss = SoftmaxCrossEntropy(reduction=Reduction.MEAN_OVER_EXAMPLES)
    state, _ = fit(Dense(2), loss, (x, y, advantages), epochs=1, batch_size=10)
    start = TrainState.create(Dense(2), SGD, x, jax.random.key(0)).params
    gradient = jaxbp.value_and_grad(Dense(2), SoftmaxCrossEntropy())
    _, each = jax.vmap(gradient, (None, 0, 0))(start, x[:, None], y[:, None])
    summed = jax.tree.map(lambda g: jnp.tensordot(advantages, g, 1) / 10, each)
    chex.assert_trees_all_close(state.params, after_one_step(summed, start), rtol=1e-4, atol=1e-6)


def test_examples_of_weight_zero_may_have_any_targets():
    _, history = fit(Dense(2), HalfSquaredError(), (X["user"], normal(10, 2).at[2].set(jnp.nan), WEIGHTS))
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ((X | {"item": normal(9, 2)}, Y), r"inputs of equally many examples .*item: float32\[9, 2\], user"),
        ((X, Y | {"click": labels(9, 2)}), r"equally many examples .*click: int.*\[9\]"),
        ((X, Y, WEIGHTS[:3]), r"equally many .* weights float32\[3\]"),
        ((X, Y, WEIGHTS, WEIGHTS), r"expected \(inputs, targets\) or \(inputs, targets, weights\), got"),
        (X["user"], r"expected \(inputs, targets\) or \(inputs, targets, weights\), got float32\[10, 4\]"),
    ],
    ids=["inputs", "targets", "weights", "four", "one array"],
)
@pytest.mark.usefixtures("unchecked")
def test_data_that_do_not_fit_together_are_refused(data, problem):
    with pytest.raises(ValueError, match=problem):
        fit(TOWERS, BOTH, data)


def test_outputs_that_do_not_fit_the_loss_are_told_in_one_sentence():
    wrong = r"Serial\(.*: its outputs do not fit the loss: SumOfLosses\(.* expected targets as a dict of .*, got int"
    params = TOWERS.init(jax.random.key(0), X)
    gradient = jaxbp.value_and_grad(TOWERS, BOTH)
    for use in (
        lambda: fit(TOWERS, BOTH, (X, Y["click"])),
        lambda: jaxbp.evaluate(TOWERS, BOTH, params, X, Y["click"]),
        lambda: gradient(params, X, Y["click"]),
        lambda: jax.jit(gradient)(params, X, Y["click"]),
    ):
        with pytest.raises(jaxbp.LayerError, match=wrong):
            use()
    remedy = r"Parallel\(Dense\(2\), Dense\(2\)\): its outputs do not fit the loss: SoftmaxCrossEntropy\(\).*Select"
    with pytest.raises(jaxbp.LayerError, match=remedy):
        fit(Parallel(Dense(2), Dense(2)), SoftmaxCrossEntropy(), (X["user"], labels(10, 2)))
