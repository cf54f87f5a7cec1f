import chex
import jax.numpy as jnp
import pytest

from jaxbp import (
    Dense,
    DirectFeedback,
    FeedbackAlignment,
    KolenPollack,
    LayerNorm,
    Repeat,
    Serial,
    UniformSigns,
    feedback_value_and_grad,
    init_feedback,
)
from jaxbp.credit.rules import weights_in
from tests.support.credit import KEY, LOSS
from tests.support.networks import DEEP, MLP, batch


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


def test_an_unknown_path_is_refused_by_name():
    with pytest.raises(ValueError, match='no layer "9"'):
        feedback_value_and_grad(MLP, LOSS, {"9": FeedbackAlignment()})


def test_a_rule_that_finds_no_weights_is_refused_by_name():
    params, x, _ = batch(MLP)
    with pytest.raises(ValueError, match='FeedbackAlignment at "1" finds no weights'):
        init_feedback(MLP, {"1": FeedbackAlignment()}, KEY, params, x)


def test_what_is_no_rule_is_refused():
    with pytest.raises(TypeError, match='expected a rule at "0"'):
        feedback_value_and_grad(MLP, LOSS, {"0": FeedbackAlignment})


class Follows(FeedbackAlignment):
    """B goes where W is."""

    learns = True

    def gradient(self, kept, weight, weight_gradient):
        return kept - weight


class Silent(FeedbackAlignment):
    learns = True


def test_a_rule_says_what_the_gradient_of_its_weights_is():
    params, x, y = batch(MLP)
    fixed, learned = init_feedback(MLP, {"2": Follows()}, KEY, params, x)
    _, (_, gradient) = feedback_value_and_grad(MLP, LOSS, {"2": Follows()})((params, learned), fixed, x, y)
    chex.assert_trees_all_close(gradient["2"][0], learned["2"][0] - params[2]["weight"])
    with pytest.raises(NotImplementedError, match=r"Silent.* learns, but doesn't define gradient"):
        feedback_value_and_grad(MLP, LOSS, {"2": Silent()})((params, learned), fixed, x, y)


def test_state_of_other_rules_is_refused():
    params, x, y = batch(MLP)
    with pytest.raises(ValueError, match=r"nothing is kept for the rules at \['1'\]"):
        feedback_value_and_grad(MLP, LOSS, {"1": DirectFeedback()})((params, {}), {}, x, y)
