"""The checker, checked: every planted mistake is found, at the right layer, and called by its name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Add, Dense, Flatten, Recompute, Repeat, Serial, Tanh, Vmap
from jaxbp.core.paths import leaves_of
from tests.support.arrays import labels, normal
from tests.support.planted_in_shared import SHARED, Scanned, Siamese, shared
from tests.support.planted_mistakes import HALF, LABELS, LAYERS, LOOP, REAL, Forgetful, fail, weight, wrong

X = normal(4, 3)


def gives(scale):
    return {"backward": lambda right, *_: scale * right}


BINARY, CROSS, SMOOTH = jaxbp.BinaryCrossEntropy(), jaxbp.SoftmaxCrossEntropy(), jaxbp.SoftmaxCrossEntropy(0.2)
WEIGHTS = jnp.array([1.0, 2.0, 3.0, 2.0])
LOSS = {  # loss, targets, weights, mistake
    "half squared error, sign": (wrong(HALF, **gives(-1)), REAL, None, "wrong sign"),
    "half squared error, 1/N": (wrong(HALF, **gives(4)), REAL, None, "missing 1/N (it is N = 4 times too large)"),
    "mean squared error without its 2": (wrong(jaxbp.MeanSquaredError(), **gives(0.5)), REAL, None, "c = 0.5"),
    "huber without its clip": (
        wrong(jaxbp.Huber(0.1), scaled_gradient=lambda right, d, scale: scale * d),
        REAL,
        None,
        "elements are wrong|points elsewhere",
    ),
    "binary cross-entropy with an f' too many": (
        wrong(BINARY, scaled_gradient=lambda right, residuals, scale: right * residuals[0] * (1 - residuals[0])),
        REAL**2 % 1,
        None,
        "it points elsewhere",
    ),
    "softmax cross-entropy, 1/N": (wrong(CROSS, **gives(4)), LABELS, None, "missing 1/N"),
    "softmax cross-entropy without - y": (
        wrong(CROSS, scaled_gradient=lambda right, residuals, scale: scale * residuals[0]),
        LABELS,
        None,
        "elements are wrong",
    ),
    "smoothing left out": (
        wrong(SMOOTH, scaled_gradient=lambda right, residuals, scale: CROSS.scaled_gradient(residuals, scale)),
        LABELS,
        None,
        "it points elsewhere",
    ),
    "weights left out": (
        wrong(HALF, scaled_gradient=lambda right, d, scale: d / 4),
        REAL,
        WEIGHTS,
        "the weights per example are left out",
    ),
    "an exception": (wrong(HALF, backward=fail), REAL, None, "it raised RuntimeError: I don't know"),
}


def check(model, loss=HALF, targets=REAL, rng=None, weights=None):
    shapes = jax.eval_shape(model.init, jax.random.key(0), X)
    params = jax.tree.map(lambda shape: normal(*shape.shape), shapes)
    return jaxbp.check_gradients(model, loss, params, X, targets, rng, weights)


@pytest.mark.parametrize(("model", "path", "mistake"), (LAYERS | SHARED).values(), ids=LAYERS | SHARED)
def test_a_mistake_in_a_layer_is_found_at_its_path_and_named(model, path, mistake):
    report = check(model, rng=jax.random.key(1))
    assert not report.ok
    assert report.first_wrong.path == path
    assert mistake in report.first_wrong.mistake
    assert f'First wrong in backward order: layer "{path}"' in str(report)


@pytest.mark.parametrize(("loss", "targets", "weights", "mistake"), LOSS.values(), ids=LOSS)
def test_a_mistake_in_a_loss_is_found_and_named(loss, targets, weights, mistake):
    report = check(Serial(Dense(3), Tanh(), Dense(2)), loss, targets, weights=weights)
    assert not report
    assert report.first_wrong.path == "loss"
    assert any(words in report.first_wrong.mistake for words in mistake.split("|"))


def test_of_two_mistakes_the_first_on_the_way_down_is_named_first():
    report = check(Serial(LOOP, Tanh(), wrong(Dense(3), param_gradient=weight(lambda w: 2 * w)), Dense(2)))
    assert [(finding.path, finding.mistake) for finding in report.wrong] == [
        ("2", "wrong by a constant factor c = 2"),
        ("0", "wrong sign"),
    ]
    lines = str(report).splitlines()
    assert lines[-2].startswith('First wrong in backward order: layer "2"')
    assert lines[-1].startswith('Then wrong in backward order: layer "0"')


def test_a_layer_below_a_mistake_is_not_blamed():
    report = check(Serial(Dense(3), Tanh(), LOOP, Dense(2)))
    assert {finding.path for finding in report.wrong} == {"2"}
    assert re.search(r"\n0 .*wrong from above", str(report))


def test_a_right_backward_pass_prints_a_table_and_a_verdict():
    report = check(Serial(Dense(3), Tanh(), Dense(2)))
    assert report
    assert report.worst < 1e-12
    lines = str(report).splitlines()
    assert lines[0].split() == ["path", "layer", "quantity", "whole", "pass", "layer", "alone"]
    assert [line.split()[0] for line in lines if re.match(r"(loss|input|\d) ", line)] == [
        "loss",
        "2",
        "1",
        "0",
        "input",
    ]
    assert lines[-1].startswith("All gradients agree with jax.grad in float64; the largest relative error is")


def test_the_comparison_is_in_float64_whatever_comes_and_leaves_the_setting_alone():
    model = Serial(Dense(3), Tanh(), Dense(2))
    params = model.init(jax.random.key(0), X.astype("bfloat16"))
    report = jaxbp.check_gradients(model, jaxbp.SoftmaxCrossEntropy(), params, X.astype("bfloat16"), LABELS)
    assert report.worst < 1e-12
    assert not jax.config.jax_enable_x64


def test_numpy_arrays_can_be_checked():
    model = Serial(Dense(3), Dense(2))
    params = jax.tree.map(np.asarray, model.init(jax.random.key(0), X))
    assert jaxbp.check_gradients(model, jaxbp.SoftmaxCrossEntropy(), params, np.asarray(X), np.asarray(LABELS))


def test_wrong_input_is_told_in_its_own_words():
    model = Serial(Dense(3), Dense(2))
    params = model.init(jax.random.key(0), X)
    with pytest.raises(jaxbp.LayerError, match=r'layer "0", Dense\(3\): expected 3 input features'):
        jaxbp.check_gradients(model, HALF, params, normal(4, 5), REAL)
    with pytest.raises(ValueError, match="label 4 is out of range"):
        jaxbp.check_gradients(model, jaxbp.SoftmaxCrossEntropy(), params, X, labels(4, 2) + 4)
    with pytest.raises(ValueError, match="empty batch"):
        jaxbp.check_gradients(model, HALF, params, X[:0], REAL[:0])


@pytest.mark.parametrize(
    "model",
    [
        shared(Serial(Dense(3), Tanh())),
        shared(Recompute(Repeat(Serial(Siamese(Dense(3)), Add()), 2))),
        Serial(Dense(3), Repeat(Recompute(Serial(Siamese(Serial(Tanh(), Dense(3))), Add())), 2), Dense(2)),
        Serial(Vmap(Serial(Dense(3), Siamese(Tanh()), Add()), 3), Flatten(), Dense(2)),
        Serial(Scanned(Dense(3), 2), Flatten(), Dense(2)),
    ],
    ids=["shared", "shared repeat", "shared in repeat", "shared in vmap", "user's scan"],
)
def test_shared_and_stacked_layers_are_right_and_every_delta_is_compared(model):
    report = check(model)
    assert report.worst < 1e-12
    compared = {finding.path for finding in report.findings if finding.what == "delta" and finding.whole is not None}
    assert compared == {"loss", "input", *leaves_of(model)}


def test_recurrent_and_tied_layers_are_right():
    tokens = labels(4 * 5, 7).reshape(4, 5)
    body = Serial(jaxbp.Bidirectional(jaxbp.GRU(3)), jaxbp.LSTM(6), jaxbp.Sublayer(jaxbp.MultiHeadAttention(6, 2)))
    model = jaxbp.LanguageModel(7, 6, body, full_logits=False)
    params = model.init(jax.random.key(0), tokens)
    report = jaxbp.check_gradients(model, jaxbp.LinearCrossEntropy(), params, tokens, tokens)
    assert report, str(report)
    scanned = [finding for finding in report.findings if finding.path == "body.1.recurrent"]
    assert [finding.what for finding in scanned] == ["input gradient", "gradient of bias", "gradient of weight"]


TREES = Serial(
    jaxbp.Parallel(a=jaxbp.Select("left"), b=Serial(jaxbp.Select("right"), Dense(3))),
    jaxbp.Concatenate(),
    jaxbp.Parallel(label=Dense(3), size=Serial(Dense(2), Tanh())),
)


def test_models_with_trees_of_inputs_outputs_and_targets_can_be_checked():
    x, targets = {"left": X, "right": normal(4, 3, seed=2)}, {"label": labels(4, 3), "size": REAL}
    params = TREES.init(jax.random.key(0), x)
    loss = jaxbp.SumOfLosses({"label": (CROSS, 1.0), "size": (HALF, 0.5)})
    report = jaxbp.check_gradients(TREES, loss, params, x, targets, weights=WEIGHTS)
    assert report.worst < 1e-12
    found = [(finding.path, finding.what) for finding in report.findings if finding.path in ("loss", "input")]
    assert found == [("loss", "delta label"), ("loss", "delta size"), ("input", "delta")]
    wrong_loss = jaxbp.SumOfLosses({"label": (CROSS, 1.0), "size": (wrong(HALF, **gives(-1)), 0.5)})
    report = jaxbp.check_gradients(TREES, wrong_loss, params, x, targets)
    assert (report.first_wrong.path, report.first_wrong.what) == ("loss", "delta size")
    assert report.first_wrong.mistake == "wrong sign"


def test_running_statistics_in_a_wrong_composite_are_not_held_against_it():
    model = Serial(Dense(3), Forgetful(jaxbp.BatchNorm()), Dense(2))
    report = jaxbp.check_gradients(model, HALF, model.init(jax.random.key(0), X), X, REAL)
    assert report.first_wrong.path == "1"
