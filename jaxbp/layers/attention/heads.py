"""Heads: the features of a position, cut into several spaces of their own, and joined again.

Let n run over examples, t over positions, h over heads and d over the D features of a head.

    SplitHeads    y[n,t,h,d] = x[n,t,h D + d]        ∂J/∂x[n,t,h D + d] = g[n,t,h,d]
    JoinHeads     y[n,t,h D + d] = x[n,t,h,d]        ∂J/∂x[n,t,h,d] = g[n,t,h D + d]

Each is the other's gradient. JoinHeads needs to know D again, and keeps x[:0], an array without numbers.
"""

from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxbp.core.errors import LayerError, require_floating, require_positive
from jaxbp.core.layer import Layer
from jaxbp.core.text import describe
from jaxbp.layers.attention.positions import require_sequence


@dataclass(frozen=True)
class SplitHeads(Layer):
    """Maps [n, t, heads * size] to [n, t, heads, size].

    Args:
        size: features of a head, a divisor of x's.
    """

    position_wise = True

    size: int

    def __post_init__(self):
        require_positive(self, size=self.size)

    def forward(self, params, x, rng=None):
        require_sequence(self, x)
        if x.shape[-1] % self.size:
            raise LayerError(self, f"expected features that heads of size {self.size} divide, got {describe(x)}")
        return x.reshape(*x.shape[:2], x.shape[-1] // self.size, self.size), ()

    def input_gradient(self, params, residuals, g: Float[Array, "n t h d"]) -> Float[Array, "n t h*d"]:
        return g.reshape(*g.shape[:2], g.shape[2] * g.shape[3])


@dataclass(frozen=True)
class JoinHeads(Layer):
    """Maps [n, t, heads, size] to [n, t, heads * size]."""

    position_wise = True

    def forward(self, params, x, rng=None):
        require_floating(self, x)
        if len(x.shape) != 4:
            raise LayerError(self, f"expected [examples, positions, heads, size], got {describe(x)}")
        return x.reshape(*x.shape[:2], x.shape[2] * x.shape[3]), x[:0]

    def input_gradient(self, params, no_x, g: Float[Array, "n t f"]) -> Float[Array, "n t h d"]:
        return g.reshape(*g.shape[:2], *no_x.shape[2:])
