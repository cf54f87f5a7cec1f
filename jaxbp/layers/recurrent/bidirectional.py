"""A recurrent layer in both directions of time: what was and what will be, side by side.

    y[n,t] = (→h[n,t], ←h[n,t])      ∂J/∂x = the sum of the two layers' input gradients

The second run begins at each sequence's own end, behind which is padding.

Source: Schuster & Paliwal, IEEE Trans. Signal Processing 45 (1997).
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core.errors import LayerError, located
from jaxbp.core.layer import Layer
from jaxbp.core.paths import part
from jaxbp.core.sweep import Composite
from jaxbp.core.text import describe
from jaxbp.layers.recurrent.base import Recurrent
from jaxbp.layers.sequences import Sequences, values_of, with_values


@dataclass(frozen=True)
class Bidirectional(Composite):
    """Maps [n, t, inputs] to [n, t, 2 outputs], or with `last` to [n, 2 outputs], the last output of each direction.

    Args:
        forward_in_time: LSTM(64), GRU(64) or RNN(64).
        back_in_time: the layer for the other direction; the same kind unless given.

    Of the states in `Sequences` it takes two, first that of the forward direction.
    """

    forward_in_time: Layer
    back_in_time: Layer | None = None

    def __post_init__(self):
        if self.back_in_time is None:
            if not isinstance(self.forward_in_time, Recurrent):
                raise TypeError(f"Bidirectional takes LSTM(…), GRU(…) or RNN(…), not {self.forward_in_time}")
            opposite = dataclasses.replace(self.forward_in_time, reverse=not self.forward_in_time.reverse)
            object.__setattr__(self, "back_in_time", opposite)

    @property
    def children(self):
        return {"forward_in_time": self.forward_in_time, "back_in_time": self.back_in_time}

    def rebuild(self, children):
        return Bidirectional(**children)

    def init(self, key, x):
        params = {}
        for (name, layer), k in zip(self.children.items(), jax.random.split(key), strict=True):
            with located(name):
                params[name] = layer.init(k, x)
        return params

    def forward(self, params, x, rng=None):
        values, residuals, here = [], {}, x
        keys = (None, None) if rng is None else jax.random.split(rng)
        for (name, layer), k in zip(self.children.items(), keys, strict=True):
            with located(name):
                y, residuals[name] = layer.forward(part(params, name), here, k)
            values.append(values_of(y))
            here = y._replace(values=values_of(x)) if isinstance(y, Sequences) else x
        if values[0].shape != values[1].shape:
            raise LayerError(self, f"both directions must give the same shape, got {describe(values)}")
        return with_values(y, jnp.concatenate(values, -1)), residuals

    def backward(self, walk, params, feedback, residuals, g):
        halves, collected, dx = jnp.split(values_of(g), 2, -1), {}, 0.0
        for name, half in zip(reversed(self.children), reversed(halves), strict=True):
            trees = part(params, name), part(feedback, name), part(residuals, name)
            d, collected[name] = walk(name, *trees, with_values(g, half))
            dx = dx + values_of(d)
            g = d if isinstance(g, Sequences) else g
        return with_values(d, dx), {name: collected[name] for name in self.children}
