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

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxbp.backprop import Targets, require_examples
from jaxbp.core.errors import LayerError
from jaxbp.core.layer import Layer, Params
from jaxbp.core.sweep import sweep
from jaxbp.core.text import describe
from jaxbp.layers.sequences import Sequences, State
from jaxbp.losses.base import Loss


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
        weights: Float[Array, "..."] | None = None,
        total: Float[Array, ""] | None = None,
    ) -> tuple[Array, Params, tuple[State, ...]]:
        x = x._replace(states=states) if isinstance(x, Sequences) else Sequences(x, None, states)
        require_examples(x)
        y, residuals = model.forward(params, jax.tree.map(jnp.asarray, x), rng)
        if not isinstance(y, Sequences):
            raise LayerError(
                model, f"the states are lost on the way: it returns {describe(y)}; use MapValues, not DropLengths"
            )
        if y.states:
            raise LayerError(model, f"has {len(y.ended)} recurrent layers, but got {len(states)} states")
        value, kept = loss.forward(y.values, targets, weights, total)
        nothing = jax.tree.map(jnp.zeros_like, y.ended)
        _, gradient = sweep(model, params, residuals, Sequences(loss.backward(kept), None, (), nothing))
        return value, gradient, y.ended

    return value_gradient_and_states
