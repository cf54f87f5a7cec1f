"""Normalisation: subtract the mean, divide by the standard deviation, then scale and shift.

One derivation serves all but RMSNorm; they differ in the set S of numbers that are normalised together. Let i and j run
over S, m be its size, c(i) the channel of i, ε a small number against division by zero, and g = ∂J/∂y:

    μ = Σ_i x_i / m        σ² = Σ_i (x_i - μ)² / m + ε        x̂_i = (x_i - μ) / σ        y_i = γ_c x̂_i + β_c

Scale and shift are a dense layer with one input each. Over all i of channel c, in all sets,

    ∂J/∂γ_c = Σ_i g_i x̂_i        ∂J/∂β_c = Σ_i g_i        ∂J/∂x̂_i = γ_c g_i =: ĝ_i

An x_j moves all x̂_i of its set, for it moves μ and σ. From

    ∂μ/∂x_j = 1/m        ∂σ/∂x_j = (x_j - μ) / (m σ) = x̂_j / m        ∂x̂_i/∂x_j = ([i = j] - 1/m - x̂_i x̂_j / m) / σ

follows, with sums over the set,

    ∂J/∂x_j = Σ_i ĝ_i ∂x̂_i/∂x_j = (ĝ_j - Σ_i ĝ_i / m - x̂_j Σ_i ĝ_i x̂_i / m) / σ

Of the error that arrives the mean and the part along x̂ don't travel on: to shift or stretch all of x leaves y as it is.

    BatchNorm       a channel, over all examples and positions: see `batch_norm.py`
    LayerNorm       the last axis, at one example and position
    GroupNorm       a group of channels over all positions of one example
    InstanceNorm    a channel over all positions of one example

RMSNorm leaves μ out: x̂_i = x_i / σ with σ² = Σ_i x_i² / m + ε, and in the gradient the mean's term falls away with it.

The residuals are x̂ and 1/σ, of RMSNorm x and 1/σ; the barrier around x̂ keeps XLA from computing it a second time in
the backward pass, from an x kept for that. In bfloat16, sums are taken in float32.

Sources: Ba et al., arXiv 1607.06450; Wu & He, arXiv 1803.08494; Ulyanov et al.,
arXiv 1607.08022; Zhang & Sennrich, arXiv 1910.07467.
"""

from dataclasses import dataclass
from math import prod

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxbp.core.errors import LayerError, require_floating, require_params
from jaxbp.core.layer import ArrayLike, Layer, Params
from jaxbp.core.numerics import widened
from jaxbp.core.text import describe


class _Normalization(Layer):
    """What they share: x is [n, ..., channels]; a subclass says by `_sets` which numbers belong together."""

    names = ("bias", "scale")

    def init(self, key: PRNGKeyArray, x: ArrayLike) -> Params:
        self._require_input(x)
        return {"scale": jnp.ones(x.shape[-1], x.dtype), "bias": jnp.zeros(x.shape[-1], x.dtype)}

    def forward(self, params: Params, x: Array, rng: PRNGKeyArray | None = None):
        """Returns y, shaped like x, and the residuals x̂ and 1/σ."""
        self._require(params, x)
        shape, axes = self._sets(x.shape)
        _, _, normal, inverse = standardized(widened(x).reshape(shape), axes, self.epsilon)
        y = scaled(params, normal.reshape(x.shape)).astype(x.dtype)
        return y, lax.optimization_barrier((normal.astype(x.dtype), inverse))

    def input_gradient(self, params: Params, residuals, g: Float[Array, "n ... c"]) -> Float[Array, "n ... c"]:
        (normal, inverse), (shape, axes) = residuals, self._sets(g.shape)
        g_normal = (widened(g) * widened(params["scale"])).reshape(shape)
        return unstandardized(g_normal, widened(normal), inverse, axes).reshape(g.shape).astype(normal.dtype)

    def param_gradient(self, params: Params, residuals, g: Float[Array, "n ... c"]) -> Params:
        return scaled_gradient(params, widened(residuals[0]).reshape(g.shape), widened(g))

    def _require_input(self, x):
        require_floating(self, x)
        if len(x.shape) < 2 or 0 in x.shape[1:]:
            raise LayerError(self, f"expected [examples, ..., channels], none of them empty, got {describe(x)}")

    def _require(self, params, x):
        self._require_input(x)
        require_params(self, params, dict.fromkeys(self.names, x.shape[-1:]), x)


@dataclass(frozen=True)
class LayerNorm(_Normalization):
    """Normalises the last axis of [n, ..., c]."""

    position_wise = True

    epsilon: float = 1e-5

    def __post_init__(self):
        require_epsilon(self)

    def _sets(self, shape):
        return shape, (-1,)


@dataclass(frozen=True)
class GroupNorm(_Normalization):
    """Normalises each of `groups` groups of neighbouring channels over the positions of one example, [n, ..., c]."""

    groups: int
    epsilon: float = 1e-5

    def __post_init__(self):
        require_epsilon(self)
        if self.groups < 1:
            raise ValueError(f"GroupNorm needs a positive number of groups, not {self.groups}")

    def _sets(self, shape):
        return (*shape[:-1], self.groups, shape[-1] // self.groups), (*range(1, len(shape) - 1), -1)

    def _require_input(self, x):
        super()._require_input(x)
        if x.shape[-1] % self.groups:
            raise LayerError(self, f"expected channels that {self.groups} groups divide, got {describe(x)}")
        if prod(x.shape[1:]) == self.groups:
            raise LayerError(self, f"expected more than one number a group, got {describe(x)}: all would become zero")


@dataclass(frozen=True)
class InstanceNorm(_Normalization):
    """Normalises each channel over the positions of one example, [n, *grid, c]."""

    epsilon: float = 1e-5

    def __post_init__(self):
        require_epsilon(self)

    def _sets(self, shape):
        return shape, tuple(range(1, len(shape) - 1))

    def _require_input(self, x):
        super()._require_input(x)
        if prod(x.shape[1:-1]) == 1:
            raise LayerError(self, f"expected more than one position, got {describe(x)}: all would become zero")


@dataclass(frozen=True)
class RMSNorm(_Normalization):
    """Divides the last axis of [n, ..., c] by its root mean square, and scales it."""

    position_wise = True

    epsilon: float = 1e-5

    names = ("scale",)

    def __post_init__(self):
        require_epsilon(self)

    def init(self, key, x):
        self._require_input(x)
        return {"scale": jnp.ones(x.shape[-1], x.dtype)}

    def forward(self, params, x, rng=None):
        self._require(params, x)
        inverse = lax.rsqrt(jnp.mean(widened(x) ** 2, -1, keepdims=True) + self.epsilon)
        return scaled(params, widened(x) * inverse).astype(x.dtype), (x, inverse)

    def input_gradient(self, params, residuals, g):
        x, inverse = residuals
        g_normal = widened(g) * widened(params["scale"])
        along = jnp.mean(g_normal * widened(x), -1, keepdims=True) * inverse**2  # x̂ mean ĝ x̂ = x (mean ĝ x) / σ²
        return (inverse * (g_normal - widened(x) * along)).astype(x.dtype)

    def param_gradient(self, params, residuals, g):
        return scaled_gradient(params, widened(residuals[0]) * residuals[1], widened(g))


def standardized(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array, Array]:
    """μ, σ² without ε, x̂ and 1/σ of the sets that `axes` span."""
    mean = jnp.mean(x, axes, keepdims=True)
    variance = jnp.mean((x - mean) ** 2, axes, keepdims=True)
    inverse = lax.rsqrt(variance + epsilon)
    return mean, variance, (x - mean) * inverse, inverse


def unstandardized(g: Array, normal: Array, inverse: Array, axes: tuple[int, ...]) -> Array:
    """∂J/∂x from ĝ = ∂J/∂x̂: (ĝ - mean ĝ - x̂ mean ĝ x̂) / σ."""
    mean = jnp.mean(g, axes, keepdims=True)
    along = jnp.mean(g * normal, axes, keepdims=True)
    return inverse * (g - mean - normal * along)


def scaled(params: Params, normal: Array) -> Array:
    """γ x̂ + β; without β where there is none."""
    y = normal * widened(params["scale"])
    return y + widened(params["bias"]) if "bias" in params else y


def scaled_gradient(params: Params, normal: Array, g: Array) -> Params:
    """∂J/∂γ and, where there is one, ∂J/∂β."""
    axes = tuple(range(g.ndim - 1))
    gradient = {"scale": jnp.sum(g * normal, axes).astype(params["scale"].dtype)}
    return gradient | ({"bias": jnp.sum(g, axes).astype(params["bias"].dtype)} if "bias" in params else {})


def require_epsilon(layer: Layer) -> None:
    """Without ε a set of equal numbers would be divided by zero."""
    if not layer.epsilon > 0:
        raise ValueError(f"{type(layer).__name__} needs a positive epsilon, not {layer.epsilon}")
