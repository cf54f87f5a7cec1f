"""Losses for real-valued targets. With d = ŷ - y, the output less its target, and D outputs an example:

    HalfSquaredError    l = ½ Σ d²                               ∂l/∂ŷ = d                     ∂²l/∂ŷ² = 1
    MeanSquaredError    l = Σ d² / D                             ∂l/∂ŷ = 2 d / D                         2 / D
    Huber               l = Σ ½ d², beyond ±t: t (|d| - ½ t)     ∂l/∂ŷ = d, beyond ±t: ±t                1, beyond ±t: 0
    Quantile            l = Σ (1 - q) d, for d < 0: -q d         ∂l/∂ŷ = 1 - q, for d < 0: -q            0

The textbook's output delta, δ = (a - y) ⊙ f'(z), is the first gradient sent through the activation below it.
The residual is d.

Sources: Rumelhart et al. (1986); Huber, Annals of Mathematical Statistics 35 (1964); Koenker & Bassett, Econometrica 46
(1978), whose check function is `Quantile`.
"""

from dataclasses import dataclass
from math import prod

import jax.numpy as jnp

from jaxbp.core.numerics import accumulation_dtype
from jaxbp.core.text import describe
from jaxbp.losses.example_loss import ExampleLoss, sum_outputs


@dataclass(frozen=True)
class HalfSquaredError(ExampleLoss):
    """½‖ŷ - y‖², summed over outputs: the textbook's cost. Targets are shaped like the outputs."""

    def per_example(self, outputs, targets):
        d = difference(outputs, targets)
        return sum_outputs(d * d) / 2, d

    def scaled_gradient(self, d, scale):
        return scale * d

    def curvature(self, d):
        return jnp.ones_like(d)


@dataclass(frozen=True)
class MeanSquaredError(ExampleLoss):
    """The mean of (ŷ - y)² over outputs too. Targets are shaped like the outputs."""

    def per_example(self, outputs, targets):
        d = difference(outputs, targets)
        return sum_outputs(d * d) / prod(d.shape[1:]), d

    def scaled_gradient(self, d, scale):
        return scale * 2 * d / prod(d.shape[1:])

    def curvature(self, d):
        return jnp.full_like(d, 2 / prod(d.shape[1:]))


@dataclass(frozen=True)
class Huber(ExampleLoss):
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


@dataclass(frozen=True)
class Quantile(ExampleLoss):
    """The check (pinball) loss: the best constant output is the targets' quantile q, of which a share q lies below.

    Targets are shaped like the outputs. It is piecewise linear, so its Hessian is zero and Gauss-Newton sees nothing of
    it; `Empirical` does.

    Args:
        level: q, between 0 and 1; or several, one for each entry of the last axis.
    """

    level: float | tuple[float, ...] = 0.5

    def __post_init__(self):
        levels = self.level if isinstance(self.level, tuple) else (self.level,)
        if not levels or not all(0 < q < 1 for q in levels):
            raise ValueError(f"Quantile needs levels between 0 and 1, not {self.level}")

    def require_targets(self, outputs, targets):
        super().require_targets(outputs, targets)
        if isinstance(self.level, tuple) and outputs.shape[-1] != len(self.level):
            raise ValueError(f"{self}: expected one output for each level, got outputs {describe(outputs)}")

    def per_example(self, outputs, targets):
        d = difference(outputs, targets)
        return sum_outputs(self._slope(d) * d), d

    def scaled_gradient(self, d, scale):
        return scale * self._slope(d)

    def curvature(self, d):
        return jnp.zeros_like(d)

    def _slope(self, d):
        q = jnp.asarray(self.level, d.dtype)
        return jnp.where(d < 0, -q, 1 - q)


def difference(outputs, targets):
    """ŷ - y in the dtype of the loss."""
    return outputs.astype(accumulation_dtype(outputs)) - targets.astype(accumulation_dtype(outputs))
