"""The checker, checked: every planted mistake is found, at the right layer, and called by its name."""

import re
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import (
    Concatenate,
    Dense,
    Dropout,
    Flatten,
    Identity,
    Layer,
    Parallel,
    Recompute,
    Repeat,
    Reshape,
    Residual,
    Serial,
    Sum,
    Tanh,
)
from tests.arrays import labels, normal
from tests.random_models import ACTIVATIONS

X, REAL, LABELS = normal(4, 3), normal(4, 2, seed=1), jnp.array([0, 1, 1, 0])
HALF = jaxbp.HalfSquaredError()


def wrong(right, **mistakes):
    """A layer or loss in which methods return something else: method=lambda answer, *arguments: another answer."""

    def method(name, mistake):
        def mistaken(self, *arguments):
            return mistake(getattr(super(planted, self), name)(*arguments), *arguments)

        return mistaken

    methods = {name: method(name, mistake) for name, mistake in mistakes.items()}
    planted = type(type(right).__name__, (type(right),), methods)
    return planted(**{field.name: getattr(right, field.name) for field in fields(right)})


def weight(change):
    """A change to the gradient of the weight alone."""
    return lambda right, *_: {**right, "weight": change(right["weight"])}


def bias(change):
    """A change to the gradient of the bias, which may look at the delta."""
    return lambda right, params, residuals, g: {**right, "bias": change(g)}


def fail(*_):
    raise RuntimeError("I don't know")


def between(layer):
    """The layer in the middle of a network."""
    return Serial(Dense(3), layer, Dense(2))


@dataclass(frozen=True)
class SigmoidDense(Layer):
    """A student's layer: y = σ(x W + b), all in one."""

    outputs: int

    def init(self, key, x):
        return Dense(self.outputs).init(key, x)

    def forward(self, params, x, rng=None):
        y = jax.nn.sigmoid(x @ params["weight"] + params["bias"])
        return y, (x, y)

    def input_gradient(self, params, residuals, g):
        _, y = residuals
        return (g * y * (1 - y)) @ params["weight"].T

    def param_gradient(self, params, residuals, g):
        x, y = residuals
        delta = g * y * (1 - y)
        return {"weight": x.T @ delta, "bias": delta.sum(0)}


def without_slope(right, params, residuals, g):
    x, _ = residuals
    return {"weight": x.T @ g, "bias": g.sum(0)}


class Forgetful(Residual):
    """A residual that sends nothing past its body."""

    def reverse(self, walk, params, feedback, residuals, g):
        dx, collected = walk("body", params["body"], feedback, residuals["body"], g)
        return dx, {"body": collected}


class Lopsided(Parallel):
    """A parallel that hands the gradient of its first branch on, and forgets the others."""

    def reverse(self, walk, params, feedback, residuals, g):
        answers = [walk(name, params[int(name)], None, residuals[int(name)], g[int(name)]) for name in self.children]
        return answers[0][0], tuple(collected for _, collected in answers)


class Shuffled(Serial):
    """A serial that passes its layers in forward order."""

    def reverse(self, walk, params, feedback, residuals, g):
        collected = []
        for name in self.children:
            g, seen = walk(name, params[int(name)], None, residuals[int(name)], g)
            collected.append(seen)
        return g, tuple(collected)


LOOP = wrong(Dense(3), input_gradient=lambda right, *_: -right)

DENSE = {
    "sign of the input gradient": (between(LOOP), "1", "wrong sign"),
    "sign of the weight's": (between(wrong(Dense(3), param_gradient=weight(lambda w: -w))), "1", "wrong sign"),
    "weights not transposed": (
        between(wrong(Dense(3), input_gradient=lambda right, params, x, g: g @ params["weight"])),
        "1",
        "the weights are not transposed",
    ),
    "square gradient transposed": (between(wrong(Dense(3), param_gradient=weight(lambda w: w.T))), "1", "transposed"),
    "gradient transposed": (Serial(wrong(Dense(2), param_gradient=weight(lambda w: w.T))), "0", "transposed"),
    "mean over examples in a layer": (
        between(wrong(Dense(3), param_gradient=weight(lambda w: w / 4))),
        "1",
        "divided by N = 4: the loss alone takes the mean",
    ),
    "N times too large": (between(wrong(Dense(3), param_gradient=weight(lambda w: 4 * w))), "1", "missing 1/N"),
    "twice": (between(wrong(Dense(3), param_gradient=weight(lambda w: 2 * w))), "1", "constant factor c = 2"),
    "first example alone": (
        between(wrong(Dense(3), param_gradient=bias(lambda g: g[0]))),
        "1",
        "missing sum over examples: only the first one counts",
    ),
    "last example alone": (
        between(wrong(Dense(3), param_gradient=bias(lambda g: g[-1]))),
        "1",
        "missing sum over examples: only the last one counts",
    ),
    "no sum": (
        between(wrong(Dense(3), param_gradient=bias(lambda g: g))),
        "1",
        "missing sum over examples: it still has their axis",
    ),
    "sum over outputs": (
        between(wrong(Dense(3), param_gradient=bias(lambda g: g.sum(1)))),
        "1",
        "its shape is [4], expected [3]",
    ),
    "no bias": (
        between(wrong(Dense(3), param_gradient=lambda right, *_: {"weight": right["weight"]})),
        "1",
        "it is missing",
    ),
    "zero": (between(wrong(Dense(3), param_gradient=weight(jnp.zeros_like))), "1", "it is zero"),
    "not a number": (between(wrong(Dense(3), param_gradient=weight(lambda w: w / 0))), "1", "it is not finite"),
    "single precision": (
        between(wrong(Dense(3), param_gradient=weight(lambda w: w.astype("float32").astype(w.dtype)))),
        "1",
        "single precision",
    ),
    "an exception": (between(wrong(Dense(3), input_gradient=fail)), "1", "it raised RuntimeError: I don't know"),
    "an exception for parameters": (
        between(wrong(Dense(3), param_gradient=fail)),
        "1",
        "it raised RuntimeError: I don't know",
    ),
}
ACTIVATION = {
    f"{layer} without f'": (
        between(wrong(layer, input_gradient=lambda right, params, residuals, g: g)),
        "1",
        "missing f': g is sent on as it came",
    )
    for layer in ACTIVATIONS
} | {
    "softmax without its coupling": (
        between(wrong(jaxbp.Softmax(), input_gradient=lambda right, params, y, g: g * y * (1 - y))),
        "1",
        "it points elsewhere",
    ),
    "tanh' = 1 - y": (
        between(wrong(Tanh(), input_gradient=lambda right, params, y, g: g * (1 - y))),
        "1",
        "it points elsewhere",
    ),
    "leaky relu without its slope": (
        between(wrong(jaxbp.LeakyRelu(0.1), input_gradient=lambda right, params, y, g: jnp.where(y > 0, g, 0))),
        "1",
        "elements are wrong, the others right",
    ),
}
MOVING = {
    "identity": (between(wrong(Identity(), input_gradient=lambda right, *_: 3 * right)), "1", "c = 3"),
    "dropout without its factor": (
        between(wrong(Dropout(0.5), input_gradient=lambda right, *_: right / 2)),
        "1",
        "c = 0.5",
    ),
    "dropout without its mask": (
        between(wrong(Dropout(0.5), input_gradient=lambda right, params, rng, g: 2 * g)),
        "1",
        "missing f': g is sent on as it came, and wrong by a constant factor c = 2",
    ),
    "flatten in another order": (
        Serial(Reshape((3, 1)), wrong(Flatten(), input_gradient=lambda right, *_: right[:, ::-1]), Dense(2)),
        "1",
        "elements",
    ),
    "reshape of another shape": (
        between(wrong(Reshape((3,)), input_gradient=lambda right, *_: right[:, :, None])),
        "1",
        "its shape is [4, 3, 1], expected [4, 3]",
    ),
    "sum shares the gradient out": (
        Serial(
            Parallel(Dense(3), Dense(3)),
            wrong(Sum(), input_gradient=lambda right, *_: tuple(g / 2 for g in right)),
            Dense(2),
        ),
        "1",
        "c = 0.5",
    ),
    "concatenate mixes the parts up": (
        Serial(
            Parallel(Dense(3), Dense(3)), wrong(Concatenate(), input_gradient=lambda right, *_: right[::-1]), Dense(2)
        ),
        "1",
        "it points elsewhere",
    ),
}
STUDENT = wrong(SigmoidDense(3), param_gradient=without_slope)
COMPOSED = {
    "a student's layer": (
        between(wrong(SigmoidDense(3), input_gradient=lambda right, params, residuals, g: g @ params["weight"].T)),
        "1",
        "it points elsewhere",
    ),
    "a student's delta before f'": (
        between(STUDENT),
        "1",
        "missing f': the delta is used before it went through the activation",
    ),
    "in a repeat": (between(Repeat(Serial(Tanh(), LOOP), 2)), "1.body.1", "wrong sign"),
    "in a residual": (between(Residual(LOOP)), "1.body", "wrong sign"),
    "in a shortcut": (between(Residual(Tanh(), LOOP)), "1.shortcut", "wrong sign"),
    "in a parallel": (between(Serial(Parallel(Tanh(), LOOP), Sum())), "1.0.1", "wrong sign"),
    "in a recompute": (between(Recompute(LOOP)), "1.body", "wrong sign"),
    "in all of them": (
        between(Repeat(Recompute(Serial(Parallel(Tanh(), Residual(STUDENT)), Sum())), 2)),
        "1.body.body.0.1.body",
        "missing f'",
    ),
    "a residual that forgets its shortcut": (between(Forgetful(Tanh())), "1", "sent past or through them wrongly"),
    "a parallel that forgets a branch": (
        between(Serial(Lopsided(Tanh(), Identity()), Sum())),
        "1.0",
        "sent past or through them wrongly",
    ),
    "a serial in the wrong order": (between(Shuffled(Tanh(), Dense(3))), "1", "sent past or through them wrongly"),
}


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

LAYERS = DENSE | ACTIVATION | MOVING | COMPOSED


def check(model, loss=HALF, targets=REAL, rng=None, weights=None):
    shapes = jax.eval_shape(model.init, jax.random.key(0), X)
    params = jax.tree.map(lambda shape: normal(*shape.shape), shapes)
    return jaxbp.check_gradients(model, loss, params, X, targets, rng, weights)


@pytest.mark.parametrize(("model", "path", "mistake"), LAYERS.values(), ids=LAYERS)
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
