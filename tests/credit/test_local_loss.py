import jax

from jaxbp import Dense, LocalLoss, Serial, init_feedback
from tests.support.credit import KEY, LOSS, backprop, gradient_by
from tests.support.networks import DEEP, batch, relative_error


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
    by_backprop = backprop(DEEP, params, x, y)
    assert relative_error(gradient[2:], by_backprop[2:]) < 1e-9
