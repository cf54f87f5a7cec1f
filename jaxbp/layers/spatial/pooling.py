"""Pooling: a window of each channel becomes one number, its largest or its mean.

Let n run over examples, q over output positions, k over the window, c over channels; stride s, padding l in front.

Max. The window's winner κ[n,q,c] = argmax_k x[n, sq + k - l, c] passes on what it has, and gets all of the error:

    y[n,q,c] = x[n, sq + κ - l, c]           ∂J/∂x[n,p,c] = Σ_{q,k : sq + k - l = p} [κ[n,q,c] = k] g[n,q,c]

The residual is κ, counted through the window in row-major order, in one byte where that suffices: looking for the
winner again would be slow. Of equals the first wins, as in PyTorch and XLA. Padding never wins.

Mean, of the m[q] positions of the window inside the grid (padding doesn't count):

    y[n,q,c] = Σ_k x[n, sq + k - l, c] / m[q]      ∂J/∂x[n,p,c] = Σ_{q,k : sq + k - l = p} g[n,q,c] / m[q]

Mean over windows that divide the grid, of any sizes (adaptive). Along one axis, with A[p,q] = 1 / (window's size) where
window q holds p, and 0 elsewhere:

    y[n,q,c] = Σ_p A[p,q] x[n,p,c]                 ∂J/∂x[n,p,c] = Σ_q A[p,q] g[n,q,c]

Means keep of x its shape alone: an array x[:0] without examples.

Sources: Weng, Ahuja & Huang, Cresceptron (1992), and Riesenhuber & Poggio, Nature Neuroscience 2 (1999) max; LeCun
et al. (1989) mean; Lin et al., arXiv 1312.4400 global mean.
"""

from dataclasses import dataclass
from math import prod

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxbp.core import chunking as cpu
from jaxbp.core.chunking import CACHE, bytes_each, over_examples
from jaxbp.core.errors import LayerError, require_floating
from jaxbp.core.layer import Layer
from jaxbp.core.numerics import contract, widened
from jaxbp.core.text import describe
from jaxbp.layers.spatial.geometry import Grids, Padding, Sizes, Windowed, laid, taken


@dataclass(frozen=True)
class MaxPool(Windowed):
    """The largest number of each window, [n, *grid, c] to [n, *grid', c].

    Args:
        window: its sizes, as in (2, 2); as many as grid axes.
        stride: how far it moves, one number or one an axis; the window's size unless given.
        padding: "VALID", "SAME", or (before, behind) for each axis, as in `Conv`.
    """

    window: Sizes
    stride: int | Sizes | None = None
    padding: Padding = "VALID"

    def __post_init__(self):
        self._require_fields()

    def forward(self, params, x: Array, rng=None):
        grids = self._grids(x)
        counts(self, grids)
        # In chunks: the winner is looked for while x is still in the cache. Left to itself XLA would look for it in the
        # backward pass, and keep x until then.
        y, winner = a_few_at_once(lambda x: largest(grids, x), x)
        return y, (winner, x[:0])

    def input_gradient(self, params, residuals, g: Float[Array, "n *small c"]) -> Float[Array, "n *grid c"]:
        winner, no_x = residuals
        grids = self._grids(no_x)
        return sum(laid(grids, k, jnp.where(winner == number, g, 0)) for number, k in enumerate(grids.offsets()))


@dataclass(frozen=True)
class AvgPool(Windowed):
    """The mean of each window, padding not counted; [n, *grid, c] to [n, *grid', c]. Arguments as for `MaxPool`."""

    window: Sizes
    stride: int | Sizes | None = None
    padding: Padding = "VALID"

    def __post_init__(self):
        self._require_fields()

    def forward(self, params, x: Array, rng=None):
        grids = self._grids(x)
        share = 1 / counts(self, grids)

        def mean(x):
            total = sum(taken(grids, k, widened(x)) for k in grids.offsets())
            return (total * share.astype(total.dtype)).astype(x.dtype)

        # In turns: taking from beyond the grid makes a padded copy.
        return (a_few_at_once(mean, x) if grids.padded else mean(x)), x[:0]

    def input_gradient(self, params, no_x, g: Float[Array, "n *small c"]) -> Float[Array, "n *grid c"]:
        grids = self._grids(no_x)
        share = g / counts(self, grids).astype(g.dtype)
        return sum(laid(grids, k, share) for k in grids.offsets()).astype(no_x.dtype)


@dataclass(frozen=True)
class AdaptiveAvgPool(Layer):
    """Means over windows that divide the grid as evenly as can be, [n, *grid, c] to [n, *sizes, c].

    Window q of Q over P positions holds those from ⌊q P / Q⌋ to ⌈(q + 1) P / Q⌉ - 1; neighbours may share one.
    """

    sizes: Sizes

    def __post_init__(self):
        object.__setattr__(self, "sizes", tuple(self.sizes))
        if not self.sizes or any(size < 1 for size in self.sizes):
            raise ValueError(f"AdaptiveAvgPool needs positive sizes, such as (1, 1), not {self.sizes}")

    def forward(self, params, x: Array, rng=None):
        require_floating(self, x)
        if x.ndim != len(self.sizes) + 2:
            raise LayerError(self, f"expected [examples, {len(self.sizes)} grid axes, channels], got {describe(x)}")
        if 0 in x.shape[1:]:
            raise LayerError(self, f"expected at least one position and one channel, got {describe(x)}")
        y = x
        for axis, size in enumerate(self.sizes, 1):
            y = averaged(y, membership(x.shape[axis], size), axis)
        return y, x[:0]

    def input_gradient(self, params, no_x, g: Float[Array, "n *sizes c"]) -> Float[Array, "n *grid c"]:
        for axis, size in enumerate(self.sizes, 1):
            g = averaged(g, membership(no_x.shape[axis], size).T, axis)
        return g


@dataclass(frozen=True)
class GlobalAvgPool(Layer):
    """The mean over all positions, [n, *grid, c] to [n, c]."""

    def forward(self, params, x: Array, rng=None):
        require_floating(self, x)
        if x.ndim < 3 or 0 in x.shape[1:]:
            raise LayerError(self, f"expected [examples, grid axes, channels], none of them empty, got {describe(x)}")
        return jnp.mean(x, range(1, x.ndim - 1)), x[:0]

    def input_gradient(self, params, no_x, g: Float[Array, "n c"]) -> Float[Array, "n *grid c"]:
        shape = (g.shape[0], *no_x.shape[1:])
        share = g / prod(shape[1:-1])
        return jnp.broadcast_to(jnp.expand_dims(share, range(1, len(shape) - 1)), shape)


def a_few_at_once(map_, x: Float[Array, "n *grid c"]):
    """A map of examples, on CPU in two turns or more over what stays in the cache, so that little is kept for it."""
    return over_examples(map_, x, min(CACHE // bytes_each(x), len(x) // 2)) if cpu.on_cpu() else map_(x)


def largest(grids: Grids, x: Float[Array, "n *grid c"]) -> tuple[Array, Array]:
    """The largest number of each window, and which it is: of equals the first."""
    last = prod(grids.window) - 1
    kind = next(kind for kind in (jnp.int8, jnp.int16, jnp.int32) if last <= jnp.iinfo(kind).max)
    padding = [(0, 0), *((low, max(high, 0)) for low, high in grids.padding), (0, 0)]
    y = lax.reduce_window(x, -jnp.inf, lax.max, (1, *grids.window, 1), (1, *grids.stride, 1), padding)
    winner = jnp.full(y.shape, last, kind)
    for number, k in reversed(list(enumerate(grids.offsets()))[:-1]):  # the first winner is written last
        winner = jnp.where(taken(grids, k, x, fill=-jnp.inf) == y, jnp.asarray(number, kind), winner)
    return y, winner


def counts(layer: Layer, grids: Grids) -> np.ndarray:
    """m[q], how many positions of window q lie in the grid; refuses a window that has none."""
    m = np.ones((1,) * len(grids.window) + (1,))
    for axis, (k, s, low, h, q) in enumerate(
        zip(grids.window, grids.stride, grids.low, grids.large, grids.small, strict=True)
    ):
        first = s * np.arange(q) - low
        inside = np.minimum(first + k, h) - np.maximum(first, 0)
        m = m * np.expand_dims(inside, [other for other in range(m.ndim) if other != axis])
    if m.min() < 1:
        raise LayerError(
            layer, f"padding {grids.padding} leaves windows without a single position of the grid; pad less"
        )
    return m


def membership(positions: int, windows: int) -> np.ndarray:
    """A [positions, windows]: 1 / (window's size) for the positions that a window holds."""
    p, q = np.arange(positions)[:, None], np.arange(windows)[None, :]
    inside = (p >= q * positions // windows) & (p < -(-(q + 1) * positions // windows))
    return inside / inside.sum(0)


def averaged(x: Array, matrix: np.ndarray, axis: int) -> Array:
    """Σ_p x[…,p,…] A[p,q] along one axis."""
    return jnp.moveaxis(
        contract("...p,pq->...q", jnp.moveaxis(x, axis, -1), jnp.asarray(matrix, x.dtype), dtype=x.dtype), -1, axis
    )
