import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp import (
    LSTM,
    BatchSigns,
    Dense,
    DirectFeedback,
    FeedbackAlignment,
    HalfSquaredError,
    KolenPollack,
    LocalLoss,
    Serial,
    alignment_angles,
    feedback_value_and_grad,
    init_feedback,
)
from tests.support.credit import KEY, LOSS
from tests.support.networks import DEEP, MLP, batch, normal


def test_rules_mix_and_a_few_steps_lower_the_loss():
    params, x, y = batch(DEEP)
    rules = {"0": KolenPollack(), "1": FeedbackAlignment(), "2": LocalLoss(Dense(3), LOSS), "3": BatchSigns()}
    fixed, learned = init_feedback(DEEP, rules, jax.random.key(1), params, x)
    optimizer, trained = optax.adam(0.01), (params, learned)
    state = optimizer.init(trained)

    @jax.jit
    def step(trained, state, key):
        value, gradient = feedback_value_and_grad(DEEP, LOSS, rules)(trained, fixed, x, y, key)
        updates, state = optimizer.update(gradient, state, trained)
        return value, optax.apply_updates(trained, updates), state

    values = []
    for key in jax.random.split(jax.random.key(1), 60):
        value, trained, state = step(trained, state, key)
        values.append(float(value))
    assert values[-1] < values[0] / 2


def test_alignment_angles_of_a_case_worked_by_hand():
    # Two linear layers, W2 = (1, 0)ᵀ, B = (1, 1)ᵀ: the first layer's delta turns by 45 degrees.
    model = Serial(Dense(2, bias=False), Dense(1, bias=False))
    params = ({"weight": jnp.eye(2)}, {"weight": jnp.array([[1.0], [0.0]])})
    fixed = {"1": (jnp.array([[1.0], [1.0]]),)}
    angles = alignment_angles(model, HalfSquaredError(), {"1": FeedbackAlignment()})(
        (params, {}), fixed, jnp.array([[2.0, 1.0]]), jnp.array([[0.0]])
    )
    assert list(angles) == ["0", "1"]
    np.testing.assert_allclose(angles["0"], (45, 45))
    np.testing.assert_allclose(angles["1"], (0, 0), atol=1e-5)


def test_two_rules_for_one_layer_are_refused():
    with pytest.raises(ValueError, match='DirectFeedback at "2" is for the output of that layer, and a weight rule'):
        feedback_value_and_grad(MLP, LOSS, {"": FeedbackAlignment(), "2": DirectFeedback()})


def test_a_delta_rule_for_a_part_of_a_scan_is_refused_by_name():
    model, x = Serial(LSTM(3), Dense(2)), normal(4, 5, 3)
    params = model.init(KEY, x)
    assert init_feedback(model, {"0.input": DirectFeedback()}, KEY, params, x)[0]
    with pytest.raises(ValueError, match=r'DirectFeedback at "0.recurrent": that layer is a part of a scan'):
        init_feedback(model, {"0.recurrent": DirectFeedback()}, KEY, params, x)


class Halved(DirectFeedback):
    def delta(self, kept, context):
        d, gradient = super().delta(kept, context)
        return d[:, :1], gradient


def test_a_rule_whose_delta_does_not_fit_is_told_both_shapes():
    params, x, y = batch(MLP)
    fixed, _ = init_feedback(MLP, {"1": Halved()}, KEY, params, x)
    with pytest.raises(jaxbp.LayerError, match=r'layer "1", Halved\(\): expected a delta like float64\[4, 5\].*4, 1\]'):
        feedback_value_and_grad(MLP, LOSS, {"1": Halved()})((params, {}), fixed, x, y)
