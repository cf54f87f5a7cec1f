"""Dropout: in training each element is kept with probability 1 - r, and scaled so that its mean stays.

With m drawn from {0, 1}, P(m = 1) = 1 - r, and g = ∂J/∂y:

    y = x m / (1 - r)          ∂J/∂x = g m / (1 - r)

The residual is the key: the mask is drawn from it again, at the price of a few random bits instead of memory.
Without a key, y = x.

Sources: Srivastava et al., JMLR 15 (2014); Tompson et al., arXiv 1411.4280 (spatial).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbp.core.errors import LayerError, require_floating
from jaxbp.core.layer import Layer
from jaxbp.core.text import describe


@dataclass(frozen=True)
class Dropout(Layer):
    """Sets elements to zero at random, in training alone.

    Args:
        rate: the probability r of zero, 0 ≤ r < 1.
    """

    position_wise = True

    rate: float

    def __post_init__(self):
        if not 0 <= self.rate < 1:
            raise ValueError(f"Dropout needs 0 <= rate < 1, not {self.rate}")

    def forward(self, params, x: Array, rng=None):
        require_floating(self, x)
        return self._masked(x, rng), rng

    def input_gradient(self, params, rng, g: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return self._masked(g, rng)

    def _masked(self, x, rng):
        if rng is None or self.rate == 0:
            return x
        return jnp.where(jax.random.bernoulli(rng, 1 - self.rate, self._mask_shape(x)), x / (1 - self.rate), 0)

    def _mask_shape(self, x):
        return x.shape


@dataclass(frozen=True)
class SpatialDropout(Dropout):
    """Sets whole feature maps of [n, *grid, channels] to zero: one draw for each example and channel.

    Neighbours in a map say much the same: without one of them little is missing.
    """

    def forward(self, params, x: Float[Array, "n *grid c"], rng=None):
        require_floating(self, x)
        if x.ndim < 3:
            raise LayerError(
                self, f"expected [examples, grid axes, channels], got {describe(x)}; Dropout drops numbers"
            )
        return super().forward(params, x, rng)

    def _mask_shape(self, x):
        return (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
