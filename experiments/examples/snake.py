"""A new layer: the activation snake, whose frequency is learned.

    y[n,c] = x[n,c] + sin²(a[c] x[n,c]) / a[c]

Let n run over all axes but the last, c over channels, and g = ∂J/∂y. From d/dt sin² t = 2 sin t cos t = sin 2t:

    ∂J/∂x[n,c] = g[n,c] (1 + sin(2 a[c] x[n,c]))
    ∂J/∂a[c]   = Σ_n g[n,c] (x[n,c] sin(2 a[c] x[n,c]) - sin²(a[c] x[n,c]) / a[c]) / a[c]

The residual is x: y is not monotonic enough to tell it, and a reaches the gradients as a parameter.

Source: Liu, Hartwig & Ueda, arXiv 2006.08195, equation 3 (networks with it learn to extrapolate what is periodic).
"""

from dataclasses import dataclass

import jax.numpy as jnp

import jaxbp


@dataclass(frozen=True)
class Snake(jaxbp.Layer):
    """The identity with a ripple: x + sin²(a x) / a, with one learned a per channel.

    Args:
        initial: what every a begins with, not 0.
    """

    initial: float = 1.0

    def __post_init__(self):
        if self.initial == 0:
            raise ValueError("Snake needs an initial frequency other than 0")

    def init(self, key, x):
        return {"frequency": jnp.full(x.shape[-1], self.initial, x.dtype)}

    def forward(self, params, x, rng=None):
        a = params["frequency"]
        return x + jnp.sin(a * x) ** 2 / a, x

    def input_gradient(self, params, x, g):
        return g * (1 + jnp.sin(2 * params["frequency"] * x))

    def param_gradient(self, params, x, g):
        a, x, g = map(wide, (params["frequency"], x, g))
        slope = (x * jnp.sin(2 * a * x) - jnp.sin(a * x) ** 2 / a) / a
        return {"frequency": jnp.sum(g * slope, range(x.ndim - 1)).astype(params["frequency"].dtype)}


def wide(x):
    """x in float32 at least: a sum in bfloat16 loses what it adds."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
