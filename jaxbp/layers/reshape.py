"""Layers that move numbers and compute none: their gradient moves g back the same way.

    Identity      y = x                       ∂J/∂x = g
    Reshape       y[n] = x[n] in a new shape  ∂J/∂x[n] = g[n] in the old one
    Sum           y = x_1 + … + x_K           ∂J/∂x_k = g, the same to each
    Concatenate   y = [x_1, …, x_K]           ∂J/∂x_k = the part of g that x_k became

What they need of x is its shape. The residual is x[:0], no example of x: an array that has the shape and no numbers.
"""

from dataclasses import dataclass
from math import prod

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

from jaxbp.core.errors import LayerError, require_floating
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
class Sum(Layer):
    """Adds the arrays of a tuple, which have equal shapes: the end of a `Parallel`."""

    def forward(self, params, x: PyTree, rng=None):
        require_tuple(self, x)
        if any(term.shape != x[0].shape or term.dtype != x[0].dtype for term in x):
            raise LayerError(self, f"expected arrays of equal shape and dtype, got {describe(x)}")
        return sum(x[1:], x[0]), tuple(term[:0] for term in x)

    def input_gradient(self, params, no_x, g: Float[Array, "..."]):
        return (g,) * len(no_x)


@dataclass(frozen=True)
class Concatenate(Layer):
    """Joins the arrays of a tuple along `axis`, counted from the end: the end of a `Parallel`."""

    axis: int = -1

    def forward(self, params, x: PyTree, rng=None):
        require_tuple(self, x)
        rank = x[0].ndim
        if not -rank <= self.axis < rank or self.axis % rank == 0:
            raise LayerError(self, f"axis {self.axis} must be a feature axis of [examples, ...], got {describe(x)}")
        others = [term.shape[: self.axis % rank] + term.shape[self.axis % rank + 1 :] for term in x]
        if any(shape != others[0] or term.dtype != x[0].dtype for shape, term in zip(others, x, strict=True)):
            raise LayerError(self, f"expected arrays alike but for axis {self.axis}, got {describe(x)}")
        return jnp.concatenate(x, self.axis), tuple(term[:0] for term in x)

    def input_gradient(self, params, no_x, g: Float[Array, "..."]):
        ends = [sum(term.shape[self.axis] for term in no_x[: k + 1]) for k in range(len(no_x) - 1)]
        return tuple(jnp.split(g, ends, self.axis))


def require_tuple(layer: Layer, x) -> None:
    """Refuses what is no tuple of floating-point arrays."""
    if not isinstance(x, tuple | list) or not x:
        raise LayerError(layer, f"expected a tuple of arrays, as Parallel returns it, got {describe(x)}")
    for term in x:
        require_floating(layer, term)
