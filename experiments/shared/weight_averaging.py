"""An exponential moving average of the weights, kept by the optimizer: θ̄ ← λ θ̄ + (1 - λ) θ after every step.

The weights jump about the minimum, with every batch elsewhere; their average lies closer to it. Early weights are
forgotten sooner by a smaller λ: (1 + t) / (10 + t) at step t, until that exceeds the one that was asked for.

Source: Polyak & Juditsky, Acceleration of Stochastic Approximation by Averaging (1992), for the idea.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

import jaxbp
from jaxbp.training.step import with_statistics


class Averaged(NamedTuple):
    """The state of an optimizer that averages: another optimizer's, θ̄, and the number of steps."""

    inner: PyTree
    average: jaxbp.Params
    step: Int[Array, ""]


def averaged(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """The same optimizer, which also keeps the weights' average; 0 ≤ `decay` < 1 is λ."""
    if not 0 <= decay < 1:
        raise ValueError(f"averaged needs 0 <= decay < 1, not {decay}")

    def init(params):
        # A copy: a step that donates its state must not be given the same array twice.
        return Averaged(optimizer.init(params), jax.tree.map(jnp.copy, params), jnp.zeros((), jnp.int32))

    def update(gradient, state, params):
        updates, inner = optimizer.update(gradient, state.inner, params)
        new = 1 - jnp.minimum(decay, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(optax.apply_updates(params, updates), state.average, new)
        return updates, Averaged(inner, average, state.step + 1)

    return optax.GradientTransformation(init, update)


def average_of(model: jaxbp.Layer, state: jaxbp.TrainState) -> jaxbp.Params:
    """The averaged weights after training with `averaged`; running statistics are averages already, and stay."""
    return with_statistics(model, state.optimizer_state.average, state.params)
