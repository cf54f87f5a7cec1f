"""Positions: attention by itself doesn't know what stands where.

Let n run over examples, t over positions, f over F features, i over pairs of features, and ω[i] = base^(-2i/F).

    learned       y[n,t,f] = x[n,t,f] + P[t,f]                                  ∂J/∂x = g,  ∂J/∂P[t,f] = Σ_n g[n,t,f]
    sinusoidal    the same with P[t,2i] = sin(ω[i] t), P[t,2i+1] = cos(ω[i] t)    ∂J/∂x = g
    rotary        the pair (x[i], x[i + F/2]) of a query or key turned by ω[i] t    ∂J/∂x: g turned back

A turn keeps lengths, and the product of a query turned by t and a key turned by s depends on t - s alone. Its transpose
is its inverse, the turn by -ω[i] t.

Sources: Vaswani et al., arXiv 1706.03762, section 3.5; Su et al., arXiv 2104.09864 (rotary; pairs as in GPT-NeoX).
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxbp.core.errors import LayerError, require_floating, require_positive
from jaxbp.core.layer import ArrayLike, Layer
from jaxbp.core.text import describe
from jaxbp.initializers import Initializer, Normal

BASE = 10_000.0


@dataclass(frozen=True)
class LearnedPositions(Layer):
    """Adds a learned row to each position of x [n, t, features].

    Args:
        length: how many positions there are; a longer x is refused.
        initializer: draws the weight [length, features].
    """

    length: int
    initializer: Initializer = Normal()

    def __post_init__(self):
        require_positive(self, length=self.length)

    def init(self, key, x):
        self._require(x)
        return {"weight": self.initializer(key, (self.length, x.shape[-1]), x.dtype)}

    def forward(self, params, x, rng=None):
        self._require(x)
        return x + params["weight"][: x.shape[1]], ()

    def input_gradient(self, params, residuals, g: Float[Array, "n t f"]) -> Float[Array, "n t f"]:
        return g

    def param_gradient(self, params, residuals, g: Float[Array, "n t f"]):
        weight = params["weight"]
        rows = jnp.sum(g, 0, jnp.promote_types(g.dtype, jnp.float32)).astype(weight.dtype)
        return {"weight": jnp.zeros_like(weight).at[: g.shape[1]].set(rows)}

    def affine(self, params, residuals, g):
        """One-hot rows [n, t, length] and g."""
        ones = jnp.eye(g.shape[1], self.length, dtype=g.dtype)
        return jnp.broadcast_to(ones, (g.shape[0], *ones.shape)), g

    def _require(self, x):
        require_sequence(self, x)
        if x.shape[1] > self.length:
            raise LayerError(
                self, f"there are {self.length} positions, got {x.shape[1]} in {describe(x)}; cut it, or learn more"
            )


@dataclass(frozen=True)
class SinusoidalPositions(Layer):
    """Adds waves of many lengths to x [n, t, features], whatever t."""

    base: float = BASE

    def forward(self, params, x, rng=None):
        require_sequence(self, x)
        angles = turns(np.arange(x.shape[1]), -(-x.shape[-1] // 2), self.base)
        waves = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(x.shape[1], -1)[:, : x.shape[-1]]
        return x + jnp.asarray(waves, x.dtype), ()

    def input_gradient(self, params, residuals, g: Float[Array, "n t f"]) -> Float[Array, "n t f"]:
        return g


def rotate(x: Float[Array, "n t h d"], first: int | Array = 0, back: bool = False) -> Float[Array, "n t h d"]:
    """Each pair of features turned by its angle times the position, which begins at `first`; or turned back."""
    half, wide = x.shape[-1] // 2, jnp.promote_types(x.dtype, jnp.float32)
    angle = (first + jnp.arange(x.shape[1]))[:, None, None] * jnp.asarray(turns(np.ones(1), half, BASE), wide)
    cos, sin = jnp.cos(angle), jnp.sin(-angle if back else angle)
    a, b = x[..., :half].astype(wide), x[..., half:].astype(wide)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1).astype(x.dtype)


def turns(positions: np.ndarray, pairs: int, base: float) -> np.ndarray:
    """ω[i] t."""
    return np.asarray(positions)[:, None] * base ** (-np.arange(pairs) / pairs)


def require_sequence(layer: Layer, x: ArrayLike) -> None:
    """Refuses what is not [n, t, features]."""
    require_floating(layer, x)
    if len(x.shape) != 3:
        raise LayerError(layer, f"expected [examples, positions, features], got {describe(x)}")
