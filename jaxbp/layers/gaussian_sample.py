"""A draw from a normal distribution that lets gradients through: the reparametrisation of a variational autoencoder.

With mean m, log-variance s, ε drawn from N(0, 1) and g = ∂J/∂z:

    z = m + e^(s/2) ε          ∂J/∂m = g          ∂J/∂s = ½ g e^(s/2) ε

The chance is an input that nothing learns, so the rest is an ordinary function. The residual is the noise e^(s/2) ε.
Without a key z = m: there is no noise, and nothing for s to learn.

Sources: Kingma & Welling, arXiv 1312.6114, section 2.4; Rezende et al., arXiv 1401.4082.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxbp.core.errors import LayerError, require_floating
from jaxbp.core.layer import Layer
from jaxbp.core.text import describe


@dataclass(frozen=True)
class GaussianSample(Layer):
    """Maps a pair (mean, log_variance) of equal shapes [n, ...] to a draw, or to the mean in evaluation."""

    position_wise = True

    def forward(self, params, x: PyTree, rng=None):
        if not isinstance(x, tuple | list) or len(x) != 2:
            raise LayerError(self, f"expected a pair (mean, log_variance), as Split(2) returns it, got {describe(x)}")
        mean, log_variance = x
        require_floating(self, mean)
        if describe(mean) != describe(log_variance):
            raise LayerError(self, f"expected mean and log_variance of one shape and dtype, got {describe(x)}")
        if rng is None:
            return mean, None
        noise = jnp.exp(log_variance / 2) * jax.random.normal(rng, mean.shape).astype(mean.dtype)
        return mean + noise, noise

    def input_gradient(self, params, noise, g: Float[Array, "*n"]):
        return g, jnp.zeros_like(g) if noise is None else g * noise / 2
