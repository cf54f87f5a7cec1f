"""What the tests of learning rules share."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxbp
from jaxbp import SoftmaxCrossEntropy, feedback_value_and_grad

LOSS = SoftmaxCrossEntropy()
KEY = jax.random.key(7)


def gradient_by(rules, model, params, kept, x, y, rng=None):
    """(Gradient, gradient of what is learned) for kept = (fixed, learned)."""
    fixed, learned = kept
    return jax.jit(feedback_value_and_grad(model, LOSS, rules))((params, learned), fixed, x, y, rng)[1]


def backprop(model, params, x, y):
    """The gradient without rules."""
    return jax.jit(jaxbp.value_and_grad(model, LOSS))(params, x, y)[1]


def forward_by_hand(params, x, y):
    """Of a network of Dense, Tanh and Dense: a, the delta e at its output."""
    a = np.tanh(x @ params[0]["weight"] + params[0]["bias"])
    return a, (jax.nn.softmax(a @ params[2]["weight"] + params[2]["bias"]) - jnp.eye(3)[y]) / len(x)
