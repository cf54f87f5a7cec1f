"""Layers that move numbers and compute none: their gradient moves g back the same way.

    Identity      y = x                       ∂J/∂x = g
    Reshape       y[n] = x[n] in a new shape  ∂J/∂x[n] = g[n] in the old one
    Transpose     y[n, j] = x[n, i] with      ∂J/∂x[n, i] = g[n, j], the axes in their old order
                  the indices i in a new order j

What they need of x is its shape. The residual is x[:0], no example of x: an array that has the shape and no numbers.
"""

from dataclasses import dataclass
from math import prod

from jaxtyping import Array, Shaped

from jaxbp.core.errors import LayerError
from jaxbp.core.layer import Layer
from jaxbp.core.numerics import is_floating
from jaxbp.core.text import describe


@dataclass(frozen=True)
class Identity(Layer):
    """Passes its input on; integers too."""

    position_wise = True

    def forward(self, params, x, rng=None):
        return x, ()

    def input_gradient(self, params, residuals, g):
        return g


@dataclass(frozen=True)
class Reshape(Layer):
    """Gives each example the shape `shape`; one entry may be -1. [n, ...] to [n, *shape]."""

    shape: tuple[int, ...]

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(self.shape))
        if sum(size == -1 for size in self.shape) > 1 or any(size < -1 or size == 0 for size in self.shape):
            raise ValueError(f"Reshape needs positive sizes, at most one of them -1, not {self.shape}")

    def forward(self, params, x: Shaped[Array, "n ..."], rng=None):
        have, want = prod(x.shape[1:]), prod(abs(size) for size in self.shape)
        if (have % want) if -1 in self.shape else (have != want):
            raise LayerError(self, f"expected {want} numbers an example, got {have} in {describe(x)}")
        sizes = (have // want if size == -1 else size for size in self.shape)
        return x.reshape(x.shape[0], *sizes), x[:0]

    def input_gradient(self, params, no_x, g):
        return g.reshape(g.shape[0], *no_x.shape[1:]) if is_floating(no_x) else None


@dataclass(frozen=True)
class Flatten(Layer):
    """Lays each example out in one row, [n, ...] to [n, features]."""

    def forward(self, params, x: Shaped[Array, "n ..."], rng=None):
        return x.reshape(x.shape[0], prod(x.shape[1:])), x[:0]

    def input_gradient(self, params, no_x, g):
        return g.reshape(g.shape[0], *no_x.shape[1:]) if is_floating(no_x) else None


@dataclass(frozen=True)
class Transpose(Layer):
    """Puts the axes behind the examples' in another order: Transpose((2, 1)) maps [n, t, f] to [n, f, t].

    Args:
        axes: 1, 2, … in the new order; axis k of the output is axis axes[k - 1] of the input.
    """

    axes: tuple[int, ...]

    def __post_init__(self):
        object.__setattr__(self, "axes", tuple(self.axes))
        if sorted(self.axes) != list(range(1, len(self.axes) + 1)):
            raise ValueError(f"Transpose needs each axis behind the examples' once, as in (2, 1), not {self.axes}")

    @property
    def position_wise(self):
        return self.axes[:1] == (1,)

    def forward(self, params, x: Shaped[Array, "n ..."], rng=None):
        if x.ndim != 1 + len(self.axes):
            raise LayerError(self, f"expected {len(self.axes)} axes behind the examples', got {describe(x)}")
        return x.transpose(0, *self.axes), x[:0]

    def input_gradient(self, params, no_x, g):
        back = (1 + self.axes.index(axis) for axis in range(1, g.ndim))
        return g.transpose(0, *back) if is_floating(no_x) else None
