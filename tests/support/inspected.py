"""Networks that the tests of inspection share: a plain one, and one with a shared layer and trees at both ends."""

from dataclasses import dataclass

import jax.numpy as jnp

import jaxbp
from jaxbp import (
    Composite,
    Concatenate,
    Dense,
    HalfSquaredError,
    Layer,
    Parallel,
    Repeat,
    Residual,
    Select,
    Serial,
    Tanh,
)
from tests.support.arrays import normal

MODEL = Serial(Dense(3), Repeat(Residual(Tanh()), 2), Parallel(Dense(2), Tanh()), Concatenate(), Dense(1))
X, Y = normal(4, 3), normal(4, 1)


@dataclass(frozen=True)
class Siamese(Composite):
    body: Layer

    def wire(self, call, x):
        return {name: call("body", x[name]) for name in ("left", "right")}


TREES = Serial(
    Siamese(Serial(Dense(2), Tanh())),
    Parallel(label=Serial(Concatenate(), Dense(3)), size=Serial(Select("left"), Dense(1))),
)
PAIR = {"left": X, "right": normal(4, 3, seed=1)}
BOTH = jaxbp.SumOfLosses({"label": (jaxbp.SoftmaxCrossEntropy(), 1.0), "size": (HalfSquaredError(), 0.5)})
TARGETS = {"label": jnp.array([0, 2, 1, 1]), "size": Y}
