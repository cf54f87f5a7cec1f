"""Losses for real-valued targets. With d = ŷ - y, the output less its target, and D outputs an example:

    HalfSquaredError    l = ½ Σ d²                               ∂l/∂ŷ = d                     ∂²l/∂ŷ² = 1
    MeanSquaredError    l = Σ d² / D                             ∂l/∂ŷ = 2 d / D                         2 / D
    Huber               l = Σ ½ d², beyond ±t: t (|d| - ½ t)     ∂l/∂ŷ = d, beyond ±t: ±t                1, beyond ±t: 0

The textbook's output delta, δ = (a - y) ⊙ f'(z), is the first gradient sent through the activation below it.
The residual is d.

Sources: Rumelhart et al. (1986); Huber, Annals of Mathematical Statistics 35 (1964).
"""

from dataclasses import dataclass
from math import prod

import jax.numpy as jnp

from jaxbp.losses.base import Loss, sum_outputs, wide


@dataclass(frozen=True)
class HalfSquaredError(Loss):
    """½‖ŷ - y‖², summed over outputs: the textbook's cost. Targets are shaped like the outputs."""

    def per_example(self, outputs, targets):
        d = difference(outputs, targets)
        return sum_outputs(d * d) / 2, d

    def scaled_gradient(self, d, scale):
        return scale * d

    def curvature(self, d):
        return jnp.ones_like(d)


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """The mean of (ŷ - y)² over outputs too. Targets are shaped like the outputs."""

    def per_example(self, outputs, targets):
        d = difference(outputs, targets)
        return sum_outputs(d * d) / prod(d.shape[1:]), d

    def scaled_gradient(self, d, scale):
        return scale * 2 * d / prod(d.shape[1:])

    def curvature(self, d):
        return jnp.full_like(d, 2 / prod(d.shape[1:]))


@dataclass(frozen=True)
class Huber(Loss):
    """Quadratic up to `threshold`, linear beyond: outliers pull with bounded force.

    Targets are shaped like the outputs.
    """

    threshold: float = 1.0

    def __post_init__(self):
        if not self.threshold > 0:
            raise ValueError(f"Huber needs a positive threshold, not {self.threshold}")

    def per_example(self, outputs, targets):
        d = difference(outputs, targets)
        near = jnp.clip(d, -self.threshold, self.threshold)
        return sum_outputs(near * (d - near / 2)), d  # near = d gives ½ d², near = ±t gives t |d| - ½ t²

    def scaled_gradient(self, d, scale):
        return scale * jnp.clip(d, -self.threshold, self.threshold)

    def curvature(self, d):
        return (jnp.abs(d) < self.threshold).astype(d.dtype)


def difference(outputs, targets):
    """ŷ - y in the dtype of the loss."""
    return outputs.astype(wide(outputs)) - targets.astype(wide(outputs))
