import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp import Dense, HalfSquaredError, LayerError, Recompute, ReLU, Repeat, Serial, SoftmaxCrossEntropy, Tanh
from jaxbp.credit.direct_feedback import DirectFeedback
from jaxbp.credit.feedback import (
    alignment_angles,
    angle,
    backward_params,
    feedback_value_and_grad,
    init_feedback,
    weights_in,
)
from jaxbp.credit.local_loss import LocalLoss
from jaxbp.credit.weight_feedback import BatchSigns, FeedbackAlignment, FixedSigns, KolenPollack, UniformSigns
from jaxbp.credit.weight_mirror import WeightMirror, mirror_weights
from jaxbp.layers.normalization import LayerNorm
from tests.support.networks import CONVOLUTIONAL, DEEP, MLP, SEQUENCE, batch, relative_error

LOSS = SoftmaxCrossEntropy()
KEY = jax.random.key(7)
WEIGHT_RULES = [FeedbackAlignment(), UniformSigns(), FixedSigns(), BatchSigns(), KolenPollack(), WeightMirror()]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def gradient_by(rules, model, params, kept, x, y, rng=None):
    fixed, learned = kept
    return jax.jit(feedback_value_and_grad(model, LOSS, rules))((params, learned), fixed, x, y, rng)[1]


def test_feedback_alignment_sends_the_delta_through_its_own_weights():
    params, x, y = batch(MLP)
    rules = {"": FeedbackAlignment()}
    fixed, learned = init_feedback(MLP, rules, KEY, params, x)
    (gradient, _) = gradient_by(rules, MLP, params, (fixed, learned), x, y)
    a = np.tanh(x @ params[0]["weight"] + params[0]["bias"])
    e = (jax.nn.softmax(a @ params[2]["weight"] + params[2]["bias"]) - np.eye(3)[y]) / len(x)
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
    backprop = jax.jit(jaxbp.value_and_grad(model, LOSS))(params, x, y)[1]
    assert relative_error(gradient_by(rules, model, params, (true, {}), x, y)[0], backprop) < 1e-9
    assert relative_error(gradient_by(rules, model, params, (fixed, {}), x, y)[0], backprop) > 0.1
    angles = jax.jit(alignment_angles(model, LOSS, rules))((params, {}), true, x, y)
    assert all(float(a.delta) < 1e-4 for a in angles.values())


@pytest.mark.parametrize("rule", WEIGHT_RULES, ids=lambda rule: type(rule).__name__)
def test_a_rule_changes_only_what_lies_below_its_layer(rule):
    params, x, y = batch(MLP)
    backprop = jaxbp.value_and_grad(MLP, LOSS)(params, x, y)[1]
    for path, differs in (("0", [False, False]), ("2", [True, False])):
        rules = {path: rule}
        kept = init_feedback(MLP, rules, KEY, params, x)
        gradient, _ = gradient_by(rules, MLP, params, kept, x, y, KEY)
        found = [relative_error(gradient[i], backprop[i]) > 1e-6 for i in (0, 2)]
        assert found == differs


def test_the_longest_path_decides():
    params, x, _ = batch(DEEP)
    rules = {"": FeedbackAlignment(), "1": UniformSigns(), "2.body": KolenPollack()}
    fixed, learned = init_feedback(DEEP, rules, KEY, params, x)
    assert sorted(fixed) == ["0", "1.body.0", "3"]
    assert fixed["1.body.0"][0].shape == ()
    assert sorted(learned) == ["2.body.1"]


def test_weights_are_told_from_scales_also_inside_a_repeat():
    model = Repeat(Serial(LayerNorm(), Dense(4)), 3)
    params = model.init(KEY, jnp.ones((2, 4)))
    norm, dense = params["body"]
    assert weights_in(model, "body.0", norm)[1] == [False, False]
    assert weights_in(model, "body.1", dense)[1] == [False, True]


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


def test_direct_feedback_sends_the_output_delta_straight_to_a_layer():
    params, x, y = batch(MLP)
    rules = {"1": DirectFeedback()}
    fixed, learned = init_feedback(MLP, rules, KEY, params, x)
    gradient, _ = gradient_by(rules, MLP, params, (fixed, learned), x, y)
    a = np.tanh(x @ params[0]["weight"] + params[0]["bias"])
    e = (jax.nn.softmax(a @ params[2]["weight"] + params[2]["bias"]) - np.eye(3)[y]) / len(x)
    hidden = (e @ fixed["1"]) * (1 - a**2)
    assert fixed["1"].shape == (3, 5)
    assert relative_error(gradient[0], {"weight": x.T @ hidden, "bias": hidden.sum(0)}) < 1e-9
    assert relative_error(gradient[2], {"weight": a.T @ e, "bias": e.sum(0)}) < 1e-9


def test_direct_feedback_reaches_convolutions_and_whole_blocks():
    for model, path in ((CONVOLUTIONAL, "1"), (DEEP, "1"), (DEEP, "2")):
        params, x, y = batch(model)
        rules = {path: DirectFeedback()}
        kept = init_feedback(model, rules, KEY, params, x)
        gradient, _ = gradient_by(rules, model, params, kept, x, y)
        backprop = jax.jit(jaxbp.value_and_grad(model, LOSS))(params, x, y)[1]
        assert relative_error(gradient[-1], backprop[-1]) < 1e-9
        assert relative_error(gradient[0], backprop[0]) > 0.1


def test_a_local_loss_is_all_that_the_layers_below_learn_from():
    params, x, y = batch(DEEP)
    head = Serial(Dense(3))
    rules = {"1": LocalLoss(head, LOSS)}
    fixed, learned = init_feedback(DEEP, rules, KEY, params, x)
    gradient, heads = gradient_by(rules, DEEP, params, (fixed, learned), x, y)

    def local(lower, head_params):
        z = Serial(*DEEP.layers[:2]).forward(lower, x)[0]
        return LOSS.forward(head.forward(head_params, z)[0], y)[0]

    lower, head_gradient = jax.jit(jax.grad(local, (0, 1)))(params[:2], learned["1"])
    assert relative_error(gradient[:2], lower) < 1e-9
    assert relative_error(heads["1"], head_gradient) < 1e-9
    backprop = jax.jit(jaxbp.value_and_grad(DEEP, LOSS))(params, x, y)[1]
    assert relative_error(gradient[2:], backprop[2:]) < 1e-9


def test_rules_mix_and_a_few_steps_lower_the_loss():
    params, x, y = batch(DEEP)
    rules = {"0": KolenPollack(), "1": FeedbackAlignment(), "2": LocalLoss(Dense(3), LOSS), "3": BatchSigns()}
    fixed, learned = init_feedback(DEEP, rules, KEY, params, x)
    optimizer, trained = optax.adam(0.03), (params, learned)
    state = optimizer.init(trained)

    @jax.jit
    def step(trained, state, key):
        value, gradient = feedback_value_and_grad(DEEP, LOSS, rules)(trained, fixed, x, y, key)
        updates, state = optimizer.update(gradient, state, trained)
        return value, optax.apply_updates(trained, updates), state

    values = []
    for key in jax.random.split(KEY, 20):
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


def test_an_unknown_path_is_refused_by_name():
    with pytest.raises(ValueError, match='no layer "9"'):
        feedback_value_and_grad(MLP, LOSS, {"9": FeedbackAlignment()})


def test_a_rule_that_finds_no_weights_is_refused_by_name():
    params, x, _ = batch(MLP)
    with pytest.raises(ValueError, match='FeedbackAlignment at "1" finds no weights'):
        init_feedback(MLP, {"1": FeedbackAlignment()}, KEY, params, x)


def test_feedback_as_large_as_weights_that_are_zero_is_refused():
    params, x, _ = batch(MLP)
    for rule in (FeedbackAlignment(), BatchSigns()):
        with pytest.raises(ValueError, match="this one is zero: give init_feedback drawn parameters") as refused:
            init_feedback(MLP, {"2": rule}, KEY, jax.tree.map(jnp.zeros_like, params), x)
        assert 'inside layer "2"' in refused.value.__notes__[0]


def test_what_is_no_rule_is_refused():
    with pytest.raises(TypeError, match='expected a rule at "0"'):
        feedback_value_and_grad(MLP, LOSS, {"0": FeedbackAlignment})


@pytest.mark.parametrize("wrap", [lambda layer: Repeat(layer, 2), Recompute], ids=["repeat", "recompute"])
def test_deltas_inside_a_repeat_or_recompute_are_refused(wrap):
    model = Serial(wrap(Serial(Dense(4), Tanh())), ReLU())
    with pytest.raises(ValueError, match=r'DirectFeedback at "0.body.1" is inside'):
        feedback_value_and_grad(model, LOSS, {"0.body.1": DirectFeedback()})


def test_batch_signs_without_rng_are_refused():
    params, x, y = batch(MLP)
    rules = {"2": BatchSigns()}
    with pytest.raises(ValueError, match="give rng"):
        gradient_by(rules, MLP, params, init_feedback(MLP, rules, KEY, params, x), x, y)


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
