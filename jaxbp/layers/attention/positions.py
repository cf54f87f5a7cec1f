"""Positions: attention by itself doesn't know what stands where.

Let n run over examples, t over positions, f over F features, h over heads, i over the F/2 pairs of features, and
ω[i] = base^(-2i/F).

    learned       y[n,t,f] = x[n,t,f] + P[t,f]                                    ∂J/∂x = g,  ∂J/∂P[t,f] = Σ_n g[n,t,f]
    sinusoidal    the same with P[t,2i] = sin(ω[i] t), P[t,2i+1] = cos(ω[i] t)    ∂J/∂x = g
    rotary        each pair (x[i], x[i + F/2]) of a head's features rotated by the angle φ = ω[i] t:

        y[n,t,h,i]       = cos φ x[n,t,h,i] - sin φ x[n,t,h,i + F/2]
        y[n,t,h,i + F/2] = sin φ x[n,t,h,i] + cos φ x[n,t,h,i + F/2]

The transpose of a rotation is its inverse, so ∂J/∂x is g rotated by -φ:

        ∂J/∂x[n,t,h,i]       =   cos φ g[n,t,h,i] + sin φ g[n,t,h,i + F/2]
        ∂J/∂x[n,t,h,i + F/2] = - sin φ g[n,t,h,i] + cos φ g[n,t,h,i + F/2]

A rotation keeps lengths, and the product of a query rotated at t and a key rotated at s depends on t - s alone. A
larger base makes the slowest rotations slower, which long texts need. In bfloat16, angles and products are float32.

Sources: Vaswani et al., arXiv 1706.03762, section 3.5; Su et al., arXiv 2104.09864, eq. 34 (rotary; pairs as in
GPT-NeoX and LLaMA, features i and i + F/2; the paper pairs 2i and 2i + 1).
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxbp.core.errors import LayerError, require_floating, require_positive
from jaxbp.core.layer import ArrayLike, Layer
from jaxbp.core.numerics import accumulation_dtype
from jaxbp.core.stepwise import Stepwise
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

    def stepwise(self, length):
        return StepwisePositions(self, length)

    def param_gradient(self, params, residuals, g: Float[Array, "n t f"]):
        weight = params["weight"]
        rows = jnp.sum(g, 0, accumulation_dtype(g)).astype(weight.dtype)
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
        angles = np.arange(x.shape[1])[:, None] * frequencies(-(-x.shape[-1] // 2), self.base)
        waves = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(x.shape[1], -1)[:, : x.shape[-1]]
        return x + jnp.asarray(waves, x.dtype), ()

    def input_gradient(self, params, residuals, g: Float[Array, "n t f"]) -> Float[Array, "n t f"]:
        return g

    def stepwise(self, length):
        return StepwisePositions(self, length)


@dataclass(frozen=True)
class StepwisePositions(Stepwise):
    """Positions added to x [n, t, f], the next t of them."""

    layer: LearnedPositions | SinusoidalPositions
    length: int

    def forward(self, params, x, rng=None):
        params, kept = params
        (at,) = kept or (jnp.zeros((), jnp.int32),)
        rows = self.layer(params, jnp.zeros((1, self.length, x.shape[-1]), x.dtype))
        return x + lax.dynamic_slice_in_dim(rows, at, x.shape[1], 1), (at + x.shape[1],)


@dataclass(frozen=True)
class RotaryPositions(Layer):
    """Rotates pairs of features of heads [n, t, h, d], queries or keys, by angles that grow with t; d is even.

    Args:
        base: the wavelengths grow with the pair, from 2π to almost 2π base.
    """

    base: float = BASE

    def __post_init__(self):
        if not self.base > 0:
            raise ValueError(f"RotaryPositions needs a positive base, not {self.base}")

    def forward(self, params, x, rng=None):
        require_floating(self, x)
        if len(x.shape) != 4 or x.shape[-1] % 2:
            raise LayerError(self, f"expected [examples, positions, heads, an even size], got {describe(x)}")
        return rotate(x, base=self.base), ()

    def input_gradient(self, params, residuals, g: Float[Array, "n t h d"]) -> Float[Array, "n t h d"]:
        return rotate(g, back=True, base=self.base)


def rotate(
    x: Float[Array, "n t h d"], first: int | Array = 0, back: bool = False, base: float = BASE
) -> Float[Array, "n t h d"]:
    """Each pair of features rotated by its angle at the position, which begins at `first`; or rotated back."""
    half, wide = x.shape[-1] // 2, accumulation_dtype(x)
    positions = first + jnp.arange(x.shape[1])
    angle = positions[:, None, None] * jnp.asarray(frequencies(half, base), wide)
    cos, sin = jnp.cos(angle), jnp.sin(-angle if back else angle)
    a, b = x[..., :half].astype(wide), x[..., half:].astype(wide)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1).astype(x.dtype)


def frequencies(pairs: int, base: float) -> np.ndarray:
    """ω[i]."""
    return base ** (-np.arange(pairs) / pairs)


def require_sequence(layer: Layer, x: ArrayLike) -> None:
    """Refuses what is not [n, t, features]."""
    require_floating(layer, x)
    if len(x.shape) != 3:
        raise LayerError(layer, f"expected [examples, positions, features], got {describe(x)}")
