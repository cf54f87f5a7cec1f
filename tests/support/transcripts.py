"""Transcripts for the tests of CTC, and its value and gradient, compiled once for all of them."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxbp import CTC, Transcripts
from tests.support.arrays import normal

# Lengths of all kinds, a repeated label, no label; what lies behind the lengths is no label at all.
LOGITS = 2 * normal(4, 5, 4)
LABELS = Transcripts(
    jnp.array([[1, 1, 2], [3, -1, 9], [0, 0, 0], [2, 1, 3]]), jnp.array([3, 1, 0, 3]), jnp.array([5, 4, 2, 3])
)
WEIGHTS = jnp.array([1.0, 0.0, 2.0, 0.5])


@partial(jax.jit, static_argnums=0)
def gradient_of(loss, logits, targets, weights=None):
    value, residuals = loss.forward(logits, targets, weights)
    return value, loss.backward(residuals)


losses_of = jax.jit(lambda logits, targets: CTC().per_example(logits, targets)[0])
occupancy_of = jax.jit(CTC().occupancy)
