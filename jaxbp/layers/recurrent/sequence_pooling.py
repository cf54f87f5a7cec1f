"""One row of features for a whole sequence: the mean or the largest over its own times, whatever fills it up behind.

Let n, t, f run over sequences, times and features, T[n] be the lengths, and g = ∂J/∂y:

    MeanOverTime    y[n,f] = 1/T[n] Σ_{t<T[n]} x[n,t,f]     ∂J/∂x[n,t,f] = [t < T[n]] g[n,f] / T[n]
    MaxOverTime     y[n,f] = max_{t<T[n]} x[n,t,f]          ∂J/∂x[n,t,f] = [t = t*[n,f]] g[n,f]
    ZeroPadding     y[n,t,f] = [t < T[n]] x[n,t,f]          ∂J/∂x[n,t,f] = [t < T[n]] g[n,t,f]

The time t* of the largest, of equals the first, is all that `MaxOverTime` keeps. A sequence of length 0 has y = 0, and
no gradient. `ZeroPadding` is for what looks across times, as a convolution does: it sees zeros behind the last time,
as it would at the end of the array.

Source: Collobert et al., JMLR 12 (2011), section 3.3.2 (max over time).
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxbp.core.errors import LayerError
from jaxbp.core.layer import Layer
from jaxbp.layers.sequences import Sequences, in_time, require_sequences, values_of


@dataclass(frozen=True)
class MeanOverTime(Layer):
    """Maps [n, t, f], or `Sequences` of them, to their means [n, f]."""

    def forward(self, params, x: PyTree, rng=None):
        _refuse_states(self, x)
        values, inside = _parts(self, x)
        return jnp.sum(_kept(inside, values) * _share(inside, values.dtype), 1), (inside, _kind(x))

    def input_gradient(self, params, residuals, g: Float[Array, "n f"]):
        inside, kind = residuals
        return _like(kind, _kept(inside, g[:, None] * _share(inside, g.dtype)))


@dataclass(frozen=True)
class MaxOverTime(Layer):
    """Maps [n, t, f], or `Sequences` of them, to the largest number of each feature, [n, f]."""

    def forward(self, params, x: PyTree, rng=None):
        _refuse_states(self, x)
        values, inside = _parts(self, x)
        winner = jnp.argmax(jnp.where(inside[..., None], values, -jnp.inf), 1)
        y = jnp.take_along_axis(values, winner[:, None], 1)[:, 0]
        return jnp.where(inside[:, :1], y, 0), (winner, inside, _kind(x))

    def input_gradient(self, params, residuals, g: Float[Array, "n f"]):
        winner, inside, kind = residuals
        here = jnp.arange(inside.shape[1])[:, None] == winner[:, None]
        return _like(kind, _kept(inside, jnp.where(here, g[:, None], 0)))


@dataclass(frozen=True)
class ZeroPadding(Layer):
    """Sets the values behind the last time to zero; lengths and states stay beside them."""

    def forward(self, params, x: PyTree, rng=None):
        values, inside = _parts(self, x)
        y = _kept(inside, values)
        return x._replace(values=y) if isinstance(x, Sequences) else y, (inside,)

    def input_gradient(self, params, residuals, g: PyTree):
        (inside,) = residuals
        dx = _kept(inside, values_of(g))
        return g._replace(values=dx) if isinstance(g, Sequences) else dx


def _parts(layer: Layer, x: PyTree) -> tuple[Array, Array]:
    """The values, and which of their times are real [n, t]."""
    require_sequences(layer, x)
    values = values_of(x)
    lengths = x.lengths if isinstance(x, Sequences) and x.lengths is not None else None
    return values, jnp.ones(values.shape[:2], bool) if lengths is None else in_time(values, lengths)


def _kept(inside: Array, values: Array) -> Array:
    """Zero where there is padding, whatever lies there."""
    return jnp.where(inside[..., None], values, 0)


def _share(inside: Array, dtype: Any) -> Array:
    """1/T[n], as [n, 1, 1]."""
    return (1 / jnp.maximum(jnp.sum(inside, 1), 1))[:, None, None].astype(dtype)


def _refuse_states(layer: Layer, x: PyTree) -> None:
    """States have no place in a row of features."""
    if isinstance(x, Sequences) and x.states is not None:
        raise LayerError(layer, "the states would be lost; give Sequences without states")


def _kind(x: PyTree) -> PyTree:
    """Whether x is an array or `Sequences`, as a tree of no numbers."""
    return Sequences(x.values[:0]) if isinstance(x, Sequences) else ()


def _like(kind: PyTree, dx: Array) -> PyTree:
    """∂J/∂x in the structure of x."""
    return Sequences(dx) if isinstance(kind, Sequences) else dx
