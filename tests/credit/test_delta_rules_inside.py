"""Delta rules inside of Repeat, Recompute, Vmap and shared layers: as in the same network written out in a Serial."""

from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import pytest

import jaxbp
from jaxbp import (
    Composite,
    Concatenate,
    Dense,
    DirectFeedback,
    FeedbackAlignment,
    KolenPollack,
    Layer,
    LocalLoss,
    Parallel,
    Recompute,
    Repeat,
    Residual,
    Select,
    Serial,
    SumOfLosses,
    Tanh,
    Vmap,
    feedback_value_and_grad,
    init_feedback,
)
from tests.support.arrays import labels, normal
from tests.support.credit import KEY, LOSS
from tests.support.networks import relative_error

BLOCK = Serial(Dense(4), Tanh())
Y = labels(5, 3)
RULES = [DirectFeedback(), LocalLoss(Dense(3), LOSS)]
EACH_RULE = pytest.mark.parametrize("rule", RULES, ids=["direct", "local"])


def inputs(seed=0):
    return normal(5, 4, seed=seed, dtype=float)


def run(model, rules, params, kept, x, y=Y, loss=LOSS):
    fixed, learned = kept
    return jax.jit(feedback_value_and_grad(model, loss, rules))((params, learned), fixed, x, y)


def copies(tree, n):
    """The trees along the first axis."""
    return [jax.tree.map(lambda a, i=i: a[i], tree) for i in range(n)]


def drawn(model, rules, x):
    params = model.init(KEY, x)
    return params, init_feedback(model, rules, KEY, params, x)


@EACH_RULE
@pytest.mark.parametrize("wrap", [lambda layer: layer, Recompute], ids=["repeat", "repeat of recompute"])
@pytest.mark.parametrize("end", ["", ".1"], ids=["block", "tanh"])
def test_inside_a_repeat_each_layer_has_its_own_and_is_sent_its_own_delta(rule, wrap, end):
    model = Serial(Dense(4), Repeat(wrap(BLOCK), 3), Dense(3))
    path = "1.body" + (".body" if wrap is Recompute else "") + end
    flat = Serial(Dense(4), *[BLOCK] * 3, Dense(3))
    flat_rules = {f"{i}{end}": rule for i in (1, 2, 3)}
    params, kept = drawn(model, {path: rule}, inputs())
    stacked = kept[rule.learns][path]
    assert jax.tree.leaves(stacked)[0].shape[0] == 3
    body = params[1]["body"]["body"] if wrap is Recompute else params[1]["body"]
    each = dict(zip(flat_rules, copies(stacked, 3), strict=True))
    flat_kept = ({}, each) if rule.learns else (each, {})
    value, (gradient, learned) = run(model, {path: rule}, params, kept, inputs())
    flat_value, (flat_gradient, flat_learned) = run(
        flat, flat_rules, (params[0], *copies(body, 3), params[2]), flat_kept, inputs()
    )
    body = gradient[1]["body"]["body"] if wrap is Recompute else gradient[1]["body"]
    assert relative_error(value, flat_value) < 1e-12
    assert relative_error((gradient[0], *copies(body, 3), gradient[2]), flat_gradient) < 1e-12
    if rule.learns:
        assert relative_error(copies(learned[path], 3), list(flat_learned.values())) < 1e-12


@EACH_RULE
def test_inside_a_recompute_a_rule_does_as_without(rule):
    model, flat = Serial(Recompute(Residual(BLOCK)), Dense(3)), Serial(Residual(BLOCK), Dense(3))
    params, kept = drawn(model, {"0.body.body.1": rule}, inputs())
    flat_kept = tuple({"0.body.1": state["0.body.body.1"]} if state else {} for state in kept)
    value, (gradient, learned) = run(model, {"0.body.body.1": rule}, params, kept, inputs())
    expected = run(flat, {"0.body.1": rule}, (params[0]["body"], params[1]), flat_kept, inputs())
    assert relative_error((value, ((gradient[0]["body"], gradient[1]), learned)), expected) < 1e-12


@EACH_RULE
def test_inside_a_vmap_each_layer_has_its_own(rule):
    model = Serial(Vmap(BLOCK, 2), jaxbp.Flatten(), Dense(3))
    flat = Serial(Parallel(BLOCK, BLOCK), Concatenate(), Dense(3))
    params, kept = drawn(model, {"0.body.1": rule}, inputs())
    each = dict(zip(("0.0.1", "0.1.1"), copies(kept[rule.learns]["0.body.1"], 2), strict=True))
    flat_params = tuple(copies(params[0]["body"], 2)), *params[1:]
    value, (gradient, learned) = run(model, {"0.body.1": rule}, params, kept, inputs())
    flat_kept = ({}, each) if rule.learns else (each, {})
    expected, (flat_gradient, flat_learned) = run(flat, dict.fromkeys(each, rule), flat_params, flat_kept, inputs())
    assert relative_error(value, expected) < 1e-12
    assert relative_error((tuple(copies(gradient[0]["body"], 2)), *gradient[1:]), flat_gradient) < 1e-12
    if rule.learns:
        assert relative_error(copies(learned["0.body.1"], 2), list(flat_learned.values())) < 1e-12


@dataclass(frozen=True)
class Siamese(Composite):
    body: Layer

    def wire(self, call, x):
        return call("body", x[0]), call("body", x[1])


@EACH_RULE
def test_at_a_shared_layer_every_use_gets_its_delta_and_what_is_learned_adds_up(rule):
    x = inputs(), inputs(1)
    model = Serial(Siamese(BLOCK), Concatenate(), Dense(3))
    flat = Serial(Parallel(Serial(Select(0), BLOCK), Serial(Select(1), BLOCK)), Concatenate(), Dense(3))
    params, kept = drawn(model, {"0.body": rule}, x)
    own = kept[rule.learns]["0.body"]
    each = {"0.0.1": own, "0.1.1": own}
    flat_params = ((), params[0]["body"]), ((), params[0]["body"])
    value, (gradient, learned) = run(model, {"0.body": rule}, params, kept, x)
    flat_kept = ({}, each) if rule.learns else (each, {})
    expected, (flat_gradient, flat_learned) = run(
        flat, dict.fromkeys(each, rule), (flat_params, *params[1:]), flat_kept, x
    )
    total = jax.tree.map(jnp.add, flat_gradient[0][0][1], flat_gradient[0][1][1])
    assert relative_error(value, expected) < 1e-12
    assert relative_error((gradient[0]["body"], gradient[2]), (total, flat_gradient[2])) < 1e-12
    if rule.learns:
        assert relative_error(learned["0.body"], jax.tree.map(jnp.add, *flat_learned.values())) < 1e-12


def test_weights_of_rules_reach_a_shared_layer_and_layers_inside_of_all_compositions():
    x = inputs(), inputs(1)
    body = Repeat(Recompute(Vmap(BLOCK, 4, split=True)), 2)
    model = Serial(Siamese(Serial(Vmap(Dense(4), 4), body)), Concatenate(), jaxbp.Flatten(), Dense(3))
    params, (fixed, learned) = drawn(model, {"": FeedbackAlignment(), "0.body.1": KolenPollack()}, x)
    by_path = jaxbp.leaves(model, params)
    chex.assert_shape(learned["0.body.1.body.body.body.0"][0], (2, 4, 4, 4))
    true = tuple({path: (by_path[path]["weight"],) for path in state} for state in (fixed, learned))
    _, (gradient, of_learned) = run(model, {"": FeedbackAlignment(), "0.body.1": KolenPollack()}, params, true, x)
    expected = jax.jit(jaxbp.value_and_grad(model, LOSS))(params, x, Y)[1]
    assert relative_error(gradient, expected) < 1e-12
    path = "0.body.1.body.body.body.0"
    assert relative_error(of_learned[path][0], jaxbp.leaves(model, expected)[path]["weight"]) < 1e-12


def test_rules_work_where_inputs_outputs_and_the_output_of_their_layer_are_trees():
    model = Serial(
        Siamese(Serial(Dense(4), Tanh())),
        Parallel(label=Serial(Concatenate(), Dense(3)), size=Serial(Select(0), Dense(1))),
    )
    loss = SumOfLosses({"label": (LOSS, 1.0), "size": (jaxbp.HalfSquaredError(), 0.5)})
    x, y = (inputs(), inputs(1)), {"label": Y, "size": normal(5, 1, dtype=float)}
    rules = {"0": DirectFeedback()}
    params, kept = drawn(model, rules, x)
    assert kept[0]["0"].shape == (3 + 1, 4 + 4)
    value, (gradient, _) = run(model, rules, params, kept, x, y, loss)
    expected = jax.jit(jaxbp.value_and_grad(model, loss))(params, x, y)
    assert relative_error((value, gradient[1]), (expected[0], expected[1][1])) < 1e-12
    dense, (a, b) = params[0]["body"][0], x
    e = loss.backward(loss.forward(model(params, x), y)[1])
    d = jnp.concatenate([e["label"], e["size"]], 1) @ kept[0]["0"]
    slopes = [1 - jnp.tanh(z @ dense["weight"] + dense["bias"]) ** 2 for z in x]
    weight = a.T @ (d[:, :4] * slopes[0]) + b.T @ (d[:, 4:] * slopes[1])
    assert relative_error(gradient[0]["body"][0]["weight"], weight) < 1e-12
