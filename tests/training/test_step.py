import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp import Dense, Dropout, HalfSquaredError, Layer, Repeat, Serial, SoftmaxCrossEntropy, Tanh, TrainState
from tests.support.arrays import labels, normal

X, Y = normal(4, 3), labels(4, 2)
LOSS, SGD = SoftmaxCrossEntropy(), optax.sgd(0.1)


def model():
    return Serial(Dense(3), Tanh(), Dense(2))


def fresh(model, optimizer=SGD, x=X):
    return TrainState.create(model, optimizer, x, jax.random.key(0))


def copy(tree):
    """What a donated state held, for later."""
    return jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else np.array(a), tree)


def test_a_step_is_the_optimizers_update_by_the_gradient():
    state = fresh(model())
    params = copy(state.params)
    value, gradient = jaxbp.value_and_grad(model(), LOSS)(state.params, X, Y)
    state, metrics = jaxbp.make_train_step(model(), LOSS, SGD)(state, X, Y)
    chex.assert_trees_all_close(state.params, jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), rtol=1e-5)
    assert float(metrics["loss"]) == pytest.approx(float(value))
    assert state.step == 1


def test_a_step_matches_a_case_worked_by_hand():
    line = Dense(1)
    params = {"weight": jnp.array([[2.0]]), "bias": jnp.array([1.0])}
    state = TrainState(params, SGD.init(params), jnp.zeros((), jnp.int32), jax.random.key(0))
    state, metrics = jaxbp.make_train_step(line, HalfSquaredError(), SGD)(state, jnp.array([[3.0]]), jnp.array([[5.0]]))
    assert metrics["loss"] == 2  # y = 7, δ = 2, ∂J/∂W = 6
    chex.assert_trees_all_close(state.params, {"weight": jnp.array([[1.4]]), "bias": jnp.array([0.8])}, rtol=1e-6)


@pytest.mark.parametrize(
    "optimizer", [optax.adamw(1e-2), optax.chain(optax.clip(1.0), optax.sgd(0.1, 0.9))], ids=["adamw", "chain"]
)
def test_any_optax_optimizer_lowers_the_loss(optimizer):
    state, step, losses = fresh(model(), optimizer), jaxbp.make_train_step(model(), LOSS, optimizer), []
    for _ in range(20):
        state, metrics = step(state, X, Y)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]


class Counted(Layer):
    """The identity, which counts how often it is traced."""

    traces = 0

    def __eq__(self, other):
        return isinstance(other, Counted)

    def __hash__(self):
        return 0

    def forward(self, params, x, rng=None):
        Counted.traces += 1
        return x, ()

    def input_gradient(self, params, residuals, g):
        return g


def test_a_second_call_and_a_second_step_of_an_equal_model_compile_nothing_anew():
    def counted():
        return Serial(Dense(3), Counted(), Dense(2))

    Counted.traces, state = 0, fresh(counted())
    Counted.traces = 0
    step = jaxbp.make_train_step(counted(), LOSS, SGD)
    state, _ = step(state, X, Y)
    first = Counted.traces
    assert first > 0
    state, _ = step(state, X + 1, Y)
    state, _ = jaxbp.make_train_step(counted(), SoftmaxCrossEntropy(), SGD)(state, X, Y)
    assert Counted.traces == first


def test_an_equal_function_under_jit_is_traced_once():
    chex.clear_trace_counter()
    gradient = jax.jit(chex.assert_max_traces(jaxbp.value_and_grad(model(), LOSS), n=1))
    params = model().init(jax.random.key(0), X)
    for shift in range(3):
        gradient(params, X + shift, Y)


@pytest.mark.parametrize("weights", [None, jnp.array([1.0, 0.0, 2.0, 0.5])], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("targets", [jnp.array([0, 1, 1, 0]), jnp.array([0, -1, 1, 0])], ids=["all", "one ignored"])
def test_micro_batches_add_up_to_the_full_batch(weights, targets):
    loss, results = SoftmaxCrossEntropy(ignored_label=-1), []
    for parts in (1, 2, 4):
        state, metrics = jaxbp.make_train_step(model(), loss, SGD, micro_batches=parts)(
            fresh(model()), X, targets, None, weights
        )
        results.append((state.params, metrics["loss"]))
    chex.assert_trees_all_close(results[1], results[0], rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(results[2], results[0], rtol=1e-5, atol=1e-6)


def test_micro_batches_draw_masks_of_their_own():
    dropped = Serial(Dropout(0.5), Dense(2))
    x = jnp.ones((4, 3))
    whole, _ = jaxbp.make_train_step(dropped, LOSS, SGD, 2)(fresh(dropped), x, Y * 0, jax.random.key(1))
    other, _ = jaxbp.make_train_step(dropped, LOSS, SGD, 2)(fresh(dropped), x, Y * 0, jax.random.key(2))
    assert (whole.params[1]["weight"] != other.params[1]["weight"]).any()


def test_sums_over_micro_batches_of_bfloat16_are_taken_in_float32():
    params = {"weight": jnp.zeros((1, 1), jnp.bfloat16), "bias": jnp.zeros(1, jnp.bfloat16)}
    optimizer = optax.sgd(1.0)
    state = TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32), jax.random.key(0))
    ones = jnp.ones((512, 1), jnp.bfloat16)
    state, _ = jaxbp.make_train_step(Dense(1), HalfSquaredError(), optimizer, 512)(state, ones, ones)
    assert state.params["bias"][0] == 1  # 512 gradients of 1/512


def test_the_state_is_donated():
    state = fresh(model())
    jaxbp.make_train_step(model(), LOSS, SGD)(state, X, Y)
    assert state.params[0]["weight"].is_deleted()


def test_a_step_without_a_key_draws_a_new_mask_each_time_and_the_same_for_the_same_state():
    dropped = Serial(Dropout(0.5), Dense(2))
    frozen = optax.sgd(0.0)
    step, state = jaxbp.make_train_step(dropped, LOSS, frozen), fresh(dropped, frozen)
    state, first = step(state, X, Y)
    _, second = step(state, X, Y)
    _, again = step(fresh(dropped, frozen), X, Y)
    assert first["loss"] == again["loss"]
    assert first["loss"] != second["loss"]


class Average(Layer):
    """The identity, with a running mean of what it sees."""

    statistics = ("mean",)

    def init(self, key, x):
        return {"mean": jnp.zeros(x.shape[-1]), "scale": jnp.ones(x.shape[-1])}

    def forward(self, params, x, rng=None):
        return x * params["scale"], x

    def input_gradient(self, params, x, g):
        return g * params["scale"]

    def param_gradient(self, params, x, g):
        return {"mean": jnp.zeros_like(params["mean"]), "scale": jnp.sum(x * g, 0)}

    def refresh(self, params, x):
        return {**params, "mean": params["mean"] / 2 + x.mean(0) / 2}


@pytest.mark.parametrize("wrap", [lambda layer: layer, jaxbp.Recompute], ids=["plain", "recomputed"])
def test_running_statistics_are_renewed_and_not_decayed(wrap):
    averaged, decay = Serial(wrap(Average()), Dense(2)), optax.adamw(1e-2, weight_decay=0.5)
    state, _ = jaxbp.make_train_step(averaged, LOSS, decay)(fresh(averaged, decay), X, Y)
    params = state.params[0] if "mean" in state.params[0] else state.params[0]["body"]
    chex.assert_trees_all_close(params["mean"], X.mean(0) / 2, rtol=1e-5)
    assert (params["scale"] != 1).all()


def test_running_statistics_are_renewed_in_every_turn_and_in_every_micro_batch():
    repeated = Serial(Repeat(Average(), 2), Dense(2))
    state, _ = jaxbp.make_train_step(repeated, LOSS, SGD, 2)(fresh(repeated), X, Y)
    first, last = X[:2].mean(0), X[2:].mean(0)
    mean = first / 4 + last / 2
    chex.assert_trees_all_close(state.params[0]["body"]["mean"], jnp.stack([mean, mean]), rtol=1e-5)


def test_a_state_is_a_pytree():
    state = fresh(model())
    again = jax.tree.map(lambda a: a, state)
    assert isinstance(again, TrainState)
    chex.assert_trees_all_equal(again.params, state.params)


def test_a_batch_that_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match="batch of 4 examples can't be cut into 3 equal micro-batches"):
        jaxbp.make_train_step(model(), LOSS, SGD, micro_batches=3)(fresh(model()), X, Y)


def test_no_micro_batch_is_refused():
    with pytest.raises(ValueError, match="micro_batches must be positive, not 0"):
        jaxbp.make_train_step(model(), LOSS, SGD, micro_batches=0)
