"""Mistakes planted in layers, losses and compositions: what was done, where, and what it should be called."""

from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp

import jaxbp
from jaxbp import (
    Add,
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
    Tanh,
)
from tests.support.arrays import normal
from tests.support.random_models import ACTIVATIONS

REAL, LABELS = normal(4, 2, seed=1), jnp.array([0, 1, 1, 0])
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

    def backward(self, walk, params, feedback, residuals, g):
        dx, collected = walk("body", params["body"], feedback, residuals["body"], g)
        return dx, {"body": collected}


class Lopsided(Parallel):
    """A parallel that hands the gradient of its first branch on, and forgets the others."""

    def backward(self, walk, params, feedback, residuals, g):
        answers = [walk(name, params[int(name)], None, residuals[name], g[int(name)]) for name in self.children]
        return answers[0][0], tuple(collected for _, collected in answers)


class Shuffled(Serial):
    """A serial that passes its layers in forward order."""

    def backward(self, walk, params, feedback, residuals, g):
        collected = []
        for name in self.children:
            g, seen = walk(name, params[int(name)], None, residuals[name], g)
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
        between(wrong(jaxbp.LeakyReLU(0.1), input_gradient=lambda right, params, y, g: jnp.where(y > 0, g, 0))),
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
    "add shares the gradient out": (
        Serial(
            Parallel(Dense(3), Dense(3)),
            wrong(Add(), input_gradient=lambda right, *_: tuple(g / 2 for g in right)),
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
    "in a parallel": (between(Serial(Parallel(Tanh(), LOOP), Add())), "1.0.1", "wrong sign"),
    "in a recompute": (between(Recompute(LOOP)), "1.body", "wrong sign"),
    "in all of them": (
        between(Repeat(Recompute(Serial(Parallel(Tanh(), Residual(STUDENT)), Add())), 2)),
        "1.body.body.0.1.body",
        "missing f'",
    ),
    "a residual that forgets its shortcut": (between(Forgetful(Tanh())), "1", "sent past or through them wrongly"),
    "a parallel that forgets a branch": (
        between(Serial(Lopsided(Tanh(), Identity()), Add())),
        "1.0",
        "sent past or through them wrongly",
    ),
    "a serial in the wrong order": (between(Shuffled(Tanh(), Dense(3))), "1", "sent past or through them wrongly"),
}


LAYERS = DENSE | ACTIVATION | MOVING | COMPOSED
