"""Truncated backpropagation through time: a long sequence in chunks, with the states carried from one to the next.

The values are those of the unbroken run; gradients reach back to the beginning of their chunk and no further, so a
step costs the memory of a chunk.

    step = jaxbp.truncated_value_and_grad(model, loss)
    states = jaxbp.initial_states(model, examples)
    for x, targets in chunks:
        value, gradient, states = step(params, x, targets, states)

Source: Williams & Peng, Neural Computation 2 (1990).
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxbp.backprop import Targets, run
from jaxbp.core.layer import Layer, Params
from jaxbp.layers.sequences import Sequences, State
from jaxbp.losses.base import Loss, Weights


@dataclass(frozen=True)
class OfValues(Loss):
    """A loss of the values of `Sequences`; the states they end with cost nothing, and get no delta."""

    loss: Loss

    def require(self, outputs, targets):
        if not isinstance(outputs, Sequences):
            raise TypeError(f"{self}: the states are lost on the way; use MapValues, not DropLengths")
        if outputs.states:
            layers, left = len(outputs.ended), len(outputs.states)
            raise ValueError(f"the model has {layers} recurrent layers, but got {layers + left} states")
        self.loss.require(outputs.values, targets)

    def forward(self, outputs, targets, weights=None, total=None):
        value, kept = self.loss.forward(outputs.values, targets, weights, total)
        return value, (kept, jax.tree.map(jnp.zeros_like, outputs.ended))

    def backward(self, residuals):
        kept, nothing = residuals
        return Sequences(self.loss.backward(kept), None, (), nothing)

    def __str__(self):
        return str(self.loss)


def truncated_value_and_grad(model: Layer, loss: Loss) -> Callable[..., tuple[Array, Params, tuple[State, ...]]]:
    """As jaxbp.value_and_grad for one chunk of a sequence.

    Args:
        model: recurrent layers and `MapValues` of others, one after the other (Serial): all that pass states on.
        loss: any loss of the values [n, t, ...].

    Returns:
        A function (params, x, targets, states, rng=None, weights=None, total=None) -> (loss, gradients, states) for a
        chunk x [n, t, features] or `Sequences`; the states it returns are those of the next chunk. A sequence that has
        ended (length 0 in a chunk) keeps its state.
    """

    def value_gradient_and_states(
        params: Params,
        x: PyTree,
        targets: Targets,
        states: tuple[State, ...],
        rng: PRNGKeyArray | None = None,
        weights: Weights | None = None,
        total: PyTree = None,
    ) -> tuple[Array, Params, tuple[State, ...]]:
        x = x._replace(states=states) if isinstance(x, Sequences) else Sequences(x, None, states)
        forward = run(model, OfValues(loss), params, x, targets, rng, weights, total)
        return forward.value, forward.sweep()[1], forward.outputs.ended

    return value_gradient_and_states
