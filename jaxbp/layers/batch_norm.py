"""Batch normalisation: each channel by its mean and variance over the batch, or by running ones.

The derivation is that of `normalization.py`, the set S all examples and positions of one channel c. There γ is one
number for the whole set and stands before the bracket, whose sums are the two gradients of the parameters:

    ∂J/∂β = Σ_i g_i        ∂J/∂γ = Σ_i g_i x̂_i        ∂J/∂x_j = (γ / σ) (g_j - ∂J/∂β / m - x̂_j ∂J/∂γ / m)

In evaluation μ and σ are constants, and ∂J/∂x = g γ / σ. The residual is x, with μ and σ in training: x̂ is cheap to
have again.

Source: Ioffe & Szegedy, arXiv 1502.03167.
"""

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxbp.core import chunking as cpu
from jaxbp.core.chunking import CACHE, bytes_each, over_pairs
from jaxbp.core.errors import LayerError
from jaxbp.core.numerics import widened
from jaxbp.core.text import describe
from jaxbp.layers.normalization import _Normalization, require_epsilon, scaled, scaled_gradient, standardized


class Batch(NamedTuple):
    """What a training step of `BatchNorm` keeps; in evaluation it keeps x."""

    x: Array
    inverse: Array
    mean: Array
    variance: Array


@dataclass(frozen=True)
class BatchNorm(_Normalization):
    """Normalises each channel of [n, ..., c] over examples and positions.

    With a key (training) by the batch's own mean and variance, without one (evaluation) by the running ones, which
    `refresh` renews after a training step: new = (1 - momentum) old + momentum seen, the variance unbiased.

    Args:
        momentum: the share of the new, 0 < momentum ≤ 1, as in PyTorch (Flax's momentum is 1 minus this).
        epsilon: added to the variance.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5

    names = ("bias", "mean", "scale", "variance")

    def __post_init__(self):
        if not 0 < self.momentum <= 1:
            raise ValueError(f"BatchNorm needs 0 < momentum <= 1, not {self.momentum}")
        require_epsilon(self)

    @property
    def mixes_examples(self):
        return True

    @property
    def statistics(self):
        return ("mean", "variance")

    def init(self, key, x):
        running = jnp.promote_types(x.dtype, jnp.float32)  # in bfloat16 a tenth of a small change is lost
        statistics = {"mean": jnp.zeros(x.shape[-1], running), "variance": jnp.ones(x.shape[-1], running)}
        return super().init(key, x) | statistics

    def forward(self, params, x, rng=None):
        """Returns y and x, in training with 1/σ, μ, σ² (without ε)."""
        self._require(params, x)
        if rng is None:
            return scaled(params, self._normal(params, x)).astype(x.dtype), x
        if prod(x.shape[:-1]) < 2:
            raise LayerError(
                self,
                f"in training expected at least two numbers a channel, got {describe(x)}: they would all become zero; "
                "take a larger batch, or rng=None",
            )
        mean, variance, normal, inverse = standardized(widened(x), tuple(range(x.ndim - 1)), self.epsilon)
        return scaled(params, normal).astype(x.dtype), Batch(x, inverse, mean, variance)

    def input_gradient(self, params, residuals, g):
        if not isinstance(residuals, Batch):
            return (widened(g) * (widened(params["scale"]) * self._inverse(params))).astype(residuals.dtype)
        mean, along = self._sums(residuals, g) * (g.shape[-1] / g.size)
        slope = widened(params["scale"]) * residuals.inverse
        return (slope * (widened(g) - mean - standard(residuals, residuals.x) * along)).astype(residuals.x.dtype)

    def param_gradient(self, params, residuals, g):
        zeros = {name: jnp.zeros_like(params[name]) for name in self.statistics}
        if not isinstance(residuals, Batch):
            return scaled_gradient(params, self._normal(params, residuals), widened(g)) | zeros
        sums = zip(("bias", "scale"), self._sums(residuals, g), strict=True)
        return {name: total.astype(params[name].dtype) for name, total in sums} | zeros

    def _sums(self, residuals, g):
        """Σ g and Σ g x̂, [2, channels]."""

        def sums(x, g):
            return jnp.stack(
                [jnp.sum(term, range(g.ndim - 1)) for term in (widened(g), widened(g) * standard(residuals, x))]
            )

        # A few examples at once: otherwise XLA would compute x̂ on the way forward, and keep it beside x.
        few = CACHE // bytes_each(g)
        return over_pairs(sums, residuals.x, g, few) if cpu.on_cpu() else sums(residuals.x, g)

    def refresh(self, params, residuals):
        if not isinstance(residuals, Batch):
            return params
        m = residuals.x.size // residuals.mean.size
        seen = {"mean": residuals.mean, "variance": residuals.variance * (m / (m - 1))}
        return params | {
            name: ((1 - self.momentum) * params[name] + self.momentum * seen[name].reshape(-1)).astype(
                params[name].dtype
            )
            for name in self.statistics
        }

    def _inverse(self, params):
        return lax.rsqrt(widened(params["variance"]) + self.epsilon)

    def _normal(self, params, x):
        return (widened(x) - widened(params["mean"])) * self._inverse(params)


def standard(batch: Batch, x: Array) -> Array:
    """x̂ of some of the batch's x."""
    return (widened(x) - batch.mean) * batch.inverse
