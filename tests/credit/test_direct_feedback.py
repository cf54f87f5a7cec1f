from jaxbp import DirectFeedback, init_feedback
from tests.support.credit import KEY, backprop, forward_by_hand, gradient_by
from tests.support.networks import CONVOLUTIONAL, DEEP, MLP, batch, relative_error


def test_direct_feedback_sends_the_output_delta_straight_to_a_layer():
    params, x, y = batch(MLP)
    rules = {"1": DirectFeedback()}
    fixed, learned = init_feedback(MLP, rules, KEY, params, x)
    gradient, _ = gradient_by(rules, MLP, params, (fixed, learned), x, y)
    a, e = forward_by_hand(params, x, y)
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
        by_backprop = backprop(model, params, x, y)
        assert relative_error(gradient[-1], by_backprop[-1]) < 1e-9
        assert relative_error(gradient[0], by_backprop[0]) > 0.1
