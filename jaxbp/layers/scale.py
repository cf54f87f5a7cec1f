"""Layers with one learned number per channel: a factor (Scale), or the slope below zero (PReLU).

Let c run over the channels, the entries of one axis, and n over all other axes (examples first). With g = ∂J/∂y:

    Scale    y[n,c] = γ[c] x[n,c]                               ∂J/∂x[n,c] = γ[c] g[n,c]
                                                                ∂J/∂γ[c] = Σ_n x[n,c] g[n,c]

    PReLU    y[n,c] = x[n,c], where x ≤ 0: a[c] x[n,c]          ∂J/∂x[n,c] = g[n,c], where x ≤ 0: a[c] g[n,c]
                                                                ∂J/∂a[c] = Σ_n [x ≤ 0] x[n,c] g[n,c]

Without an axis one number serves all, and the sums run over everything. The residual is x alone: the sign of PReLU's y
would not tell the sign of x, for a slope may become negative. In bfloat16, sums are taken in float32.

Sources: Touvron et al., arXiv 2103.17239 (LayerScale, which begins with a small γ); He et al., arXiv 1502.01852,
section 2.1 (PReLU; they leave weight decay off a).
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbp.core.axes import along, feature_axis, is_behind_positions
from jaxbp.core.errors import require_floating, require_params
from jaxbp.core.layer import Layer
from jaxbp.core.numerics import widened


class _PerChannel(Layer):
    """What they share: params are one array under `name`, [channels] or, without an axis, []."""

    name = ""

    @property
    def position_wise(self):
        return self.axis is None or is_behind_positions(self.axis)

    def init(self, key, x):
        return {self.name: jnp.full(self._shape(x), self.initial, x.dtype)}

    def _shape(self, x):
        require_floating(self, x)
        return () if self.axis is None else (x.shape[feature_axis(self, self.axis, x)],)

    def _require(self, params, x):
        require_params(self, params, {self.name: self._shape(x)}, x)

    def _learned(self, params, x):
        """The numbers, to be multiplied with x."""
        values = params[self.name]
        return values if self.axis is None else along(values, self.axis % x.ndim, x.ndim)

    def _summed(self, params, terms):
        """The gradient from what each entry of x adds to it."""
        others = [i for i in range(terms.ndim) if self.axis is None or i != self.axis % terms.ndim]
        return {self.name: jnp.sum(terms, others).astype(params[self.name].dtype)}


@dataclass(frozen=True)
class Scale(_PerChannel):
    """Multiplies each channel by a learned number.

    Args:
        initial: what the numbers begin with.
        axis: the channels' axis, not that of the examples; None: one number for all.
    """

    name = "scale"

    initial: float = 1.0
    axis: int | None = -1

    def forward(self, params, x: Array, rng=None):
        self._require(params, x)
        return x * self._learned(params, x), x

    def input_gradient(self, params, x, g: Float[Array, "n *f"]) -> Float[Array, "n *f"]:
        return (g * self._learned(params, x)).astype(x.dtype)

    def param_gradient(self, params, x, g: Float[Array, "n *f"]):
        return self._summed(params, widened(x) * widened(g))


@dataclass(frozen=True)
class PReLU(_PerChannel):
    """The identity above zero, a line of learned slope below, one for each channel.

    Args:
        initial: the slope at the beginning.
        axis: the channels' axis, not that of the examples; None: one slope for all.
    """

    name = "slope"

    initial: float = 0.25
    axis: int | None = -1

    def forward(self, params, x: Array, rng=None):
        self._require(params, x)
        return jnp.where(x > 0, x, x * self._learned(params, x)), x

    def input_gradient(self, params, x, g: Float[Array, "n *f"]) -> Float[Array, "n *f"]:
        return jnp.where(x > 0, g, g * self._learned(params, x)).astype(x.dtype)

    def param_gradient(self, params, x, g: Float[Array, "n *f"]):
        return self._summed(params, jnp.where(x > 0, 0, widened(x) * widened(g)))
