import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp import (
    BatchSigns,
    FeedbackAlignment,
    FixedSigns,
    KolenPollack,
    UniformSigns,
    WeightMirror,
    alignment_angles,
    feedback_value_and_grad,
    init_feedback,
)
from jaxbp.credit.feedback import backward_params
from tests.support.credit import KEY, LOSS, backprop, forward_by_hand, gradient_by
from tests.support.networks import CONVOLUTIONAL, DEEP, MLP, SEQUENCE, batch, relative_error

WEIGHT_RULES = [FeedbackAlignment(), UniformSigns(), FixedSigns(), BatchSigns(), KolenPollack(), WeightMirror()]


def test_feedback_alignment_sends_the_delta_through_its_own_weights():
    params, x, y = batch(MLP)
    rules = {"": FeedbackAlignment()}
    fixed, learned = init_feedback(MLP, rules, KEY, params, x)
    (gradient, _) = gradient_by(rules, MLP, params, (fixed, learned), x, y)
    a, e = forward_by_hand(params, x, y)
    hidden = (e @ fixed["2"][0].T) * (1 - a**2)
    assert fixed["2"][0].shape == (5, 3)
    assert relative_error(gradient[2], {"weight": a.T @ e, "bias": e.sum(0)}) < 1e-9
    assert relative_error(gradient[0], {"weight": x.T @ hidden, "bias": hidden.sum(0)}) < 1e-9


@pytest.mark.parametrize("model", [DEEP, CONVOLUTIONAL, SEQUENCE], ids=["deep", "conv", "sequence"])
def test_feedback_through_the_true_weights_is_backprop(model):
    params, x, y = batch(model)
    rules = {"": FeedbackAlignment()}
    fixed, _ = init_feedback(model, rules, KEY, params, x)
    by_path = jaxbp.leaves(model, params)
    true = {path: (by_path[path]["weight"],) for path in fixed}
    assert jax.tree.map(jnp.shape, true) == jax.tree.map(jnp.shape, fixed)
    by_backprop = backprop(model, params, x, y)
    assert relative_error(gradient_by(rules, model, params, (true, {}), x, y)[0], by_backprop) < 1e-9
    assert relative_error(gradient_by(rules, model, params, (fixed, {}), x, y)[0], by_backprop) > 0.1
    angles = jax.jit(alignment_angles(model, LOSS, rules))((params, {}), true, x, y)
    assert all(float(a.delta) < 1e-4 for a in angles.values())


@pytest.mark.parametrize("rule", WEIGHT_RULES, ids=lambda rule: type(rule).__name__)
def test_a_rule_changes_only_what_lies_below_its_layer(rule):
    params, x, y = batch(MLP)
    by_backprop = backprop(MLP, params, x, y)
    for path, differs in (("0", [False, False]), ("2", [True, False])):
        rules = {path: rule}
        kept = init_feedback(MLP, rules, KEY, params, x)
        gradient, _ = gradient_by(rules, MLP, params, kept, x, y, KEY)
        found = [relative_error(gradient[i], by_backprop[i]) > 1e-6 for i in (0, 2)]
        assert found == differs


def test_sign_symmetry_keeps_signs_and_draws_magnitudes():
    params, x, _ = batch(MLP)
    weight = params[2]["weight"]
    used = {}
    for rule in (UniformSigns(), FixedSigns(), BatchSigns()):
        rules = {"2": rule}
        fixed, _ = init_feedback(MLP, rules, KEY, params, x)
        used[type(rule)] = [
            backward_params(MLP, rules, params, fixed, rng)[2]["weight"] for rng in jax.random.split(KEY, 2)
        ]
        assert all((jnp.sign(b) == jnp.sign(weight)).all() for b in used[type(rule)])
    rms = jnp.sqrt(jnp.mean(weight**2))
    np.testing.assert_allclose(jnp.abs(used[UniformSigns][0]), jnp.full_like(weight, rms))
    assert (used[FixedSigns][0] == used[FixedSigns][1]).all()
    assert (used[BatchSigns][0] != used[BatchSigns][1]).all()


def test_kolen_pollack_weights_meet_at_the_rate_of_their_decay():
    params, x, y = batch(MLP)
    rules = {"2": KolenPollack()}
    fixed, learned = init_feedback(MLP, rules, KEY, params, x)
    optimizer = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.2))
    trained = params, learned
    state = optimizer.init(trained)
    distance = [trained[0][2]["weight"] - trained[1]["2"][0]]
    step = jax.jit(feedback_value_and_grad(MLP, LOSS, rules))
    for _ in range(3):
        _, gradient = step(trained, fixed, x, y)
        updates, state = optimizer.update(gradient, state, trained)
        trained = optax.apply_updates(trained, updates)
        distance.append(trained[0][2]["weight"] - trained[1]["2"][0])
    np.testing.assert_allclose(distance[3], distance[0] * 0.9**3)
    assert float(jnp.max(jnp.abs(distance[0]))) > 0.1


def test_feedback_as_large_as_weights_that_are_zero_is_refused():
    params, x, _ = batch(MLP)
    for rule in (FeedbackAlignment(), BatchSigns()):
        with pytest.raises(ValueError, match="this one is zero: give init_feedback drawn parameters") as refused:
            init_feedback(MLP, {"2": rule}, KEY, jax.tree.map(jnp.zeros_like, params), x)
        assert 'inside layer "2"' in refused.value.__notes__[0]


def test_batch_signs_without_rng_are_refused():
    params, x, y = batch(MLP)
    rules = {"2": BatchSigns()}
    with pytest.raises(ValueError, match="give rng"):
        gradient_by(rules, MLP, params, init_feedback(MLP, rules, KEY, params, x), x, y)
