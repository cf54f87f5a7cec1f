"""Several arrays at once: where a network divides and where its parts meet again.

With g = ∂J/∂y, or g_k = ∂J/∂y_k where there are several outputs:

    Select        y = x_j                     ∂J/∂x_j = g, and 0 for all other entries
    Split         [y_1, …, y_K] = x           ∂J/∂x = [g_1, …, g_K], joined again
    Concatenate   y = [x_1, …, x_K]           ∂J/∂x_k = the part of g that x_k became
    Add           y = x_1 + … + x_K           ∂J/∂x_k = Σ g
    Multiply      y = x_1 ⊙ … ⊙ x_K           ∂J/∂x_k = Σ g ⊙ (Π_{j≠k} x_j)
    WeightedSum   y[f] = Σ_e w[e] x[e,f]      ∂J/∂x[e,f] = w[e] g[f]          ∂J/∂w[e] = Σ_f g[f] x[e,f]

Add and Multiply broadcast: let b run over the axes along which x_k was repeated. From y[n,b,f] = x_k[n,f] + …

    ∂J/∂x_k[n,f] = Σ_b g[n,b,f] ∂y[n,b,f]/∂x_k[n,f]

so Σ above is the sum over b; where nothing was repeated there is nothing to add up. The example's axis n is never one
of them. The product of all others is a product of those before k and of those behind k; y / x_k would be 0 / 0 where a
factor is zero.

Multiply and WeightedSum keep what comes in. The others need shapes alone, and keep arrays without numbers: x[:0], or,
where the number of examples is needed too, x[:, None][:, :0] of shape [n, 0, ...].
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from operator import mul

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Shaped

from jaxbp.core.axes import feature_axis, is_behind_positions
from jaxbp.core.errors import LayerError, require_floating, require_positive
from jaxbp.core.layer import Layer
from jaxbp.core.numerics import expand, is_floating, widened
from jaxbp.core.text import describe


@dataclass(frozen=True, init=False)
class Select(Layer):
    """One entry of a tuple, dict or named tuple: Select("a", 0) is x["a"][0].

    Entries that are not selected get a gradient of zeros, integers among them None.
    """

    position_wise = True

    path: tuple[str | int, ...]

    def __init__(self, *path: str | int):
        if not path:
            raise ValueError("Select needs the key of an entry, as in Select(0); Identity() passes its input on")
        object.__setattr__(self, "path", path)

    def forward(self, params, x: PyTree, rng=None):
        entry = self._entry(x)
        if not jax.tree.leaves(entry):
            raise LayerError(self, f"expected an array or a tree of arrays there, got {describe(entry)}")
        if any(jnp.ndim(a) == 0 for a in jax.tree.leaves(x)):
            raise LayerError(self, f"expected arrays [examples, ...], got {describe(x)}")
        return entry, jax.tree.map(lambda a: a[:, None][:, :0], x)

    def input_gradient(self, params, shapes, g: PyTree):
        arrays, structure = jax.tree.flatten(shapes)
        gradients = [jnp.zeros((a.shape[0], *a.shape[2:]), a.dtype) if is_floating(a) else None for a in arrays]
        places, selected = jax.tree.flatten(self._entry(structure.unflatten(range(len(arrays)))))
        for place, gradient in zip(places, selected.flatten_up_to(g), strict=True):
            gradients[place] = gradient if is_floating(arrays[place]) else None
        return structure.unflatten(gradients)

    def _entry(self, tree):
        for key in self.path:
            keys = keys_of(tree)
            if key not in keys:
                there = f"its entries are {', '.join(map(repr, keys))}" if keys else "which has no entries"
                raise LayerError(self, f"expected an entry {key!r} in {describe(tree)}, {there}")
            tree = getattr(tree, key) if isinstance(tree, tuple) and isinstance(key, str) else tree[key]
        return tree

    def __str__(self):
        return f"Select({', '.join(map(repr, self.path))})"


@dataclass(frozen=True)
class Split(Layer):
    """Cuts an array into a tuple of arrays.

    Args:
        parts: how many parts of equal size, or the sizes of the parts.
        axis: the axis to cut, not that of the examples.
    """

    parts: int | tuple[int, ...]
    axis: int = -1

    def __post_init__(self):
        if not isinstance(self.parts, Iterable):
            require_positive(self, parts=self.parts)
            return
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            raise ValueError("Split needs the size of at least one part, not ()")
        for size in self.parts:
            require_positive(self, entries=size)

    @property
    def position_wise(self):
        return is_behind_positions(self.axis)

    def forward(self, params, x: Shaped[Array, "n ..."], rng=None):
        axis = feature_axis(self, self.axis, x)
        size = x.shape[axis]
        if isinstance(self.parts, tuple):
            if sum(self.parts) != size:
                raise LayerError(self, f"expected {sum(self.parts)} entries on axis {self.axis}, got {describe(x)}")
            cuts = list(accumulate(self.parts[:-1]))
        else:
            if size % self.parts:
                raise LayerError(self, f"{self.parts} equal parts must divide axis {self.axis}, got {describe(x)}")
            cuts = self.parts
        return tuple(jnp.split(x, cuts, axis)), x[:0]

    def input_gradient(self, params, no_x, g: PyTree):
        return jnp.concatenate(g, self.axis) if is_floating(no_x) else None


@dataclass(frozen=True)
class Concatenate(Layer):
    """Joins the arrays of a tuple, list or dict (in the order of its sorted keys) along `axis`, not the examples'."""

    axis: int = -1

    @property
    def position_wise(self):
        return is_behind_positions(self.axis)

    def forward(self, params, x: PyTree, rng=None):
        terms = arrays_of(self, x)
        axis = feature_axis(self, self.axis, terms[0])
        others = [term.shape[:axis] + term.shape[axis + 1 :] for term in terms]
        if any(shape != others[0] for shape in others):
            raise LayerError(self, f"expected arrays alike but for axis {self.axis}, got {describe(x)}")
        return jnp.concatenate(terms, axis), jax.tree.map(lambda term: term[:0], x)

    def input_gradient(self, params, no_x, g: Float[Array, "..."]):
        terms, structure = jax.tree.flatten(no_x)
        ends = list(accumulate(term.shape[self.axis] for term in terms[:-1]))
        return structure.unflatten(jnp.split(g, ends, self.axis))


@dataclass(frozen=True)
class Add(Layer):
    """Adds the arrays of a tuple, list or dict. Behind the examples' axis, shapes broadcast as in NumPy."""

    position_wise = True

    def forward(self, params, x: PyTree, rng=None):
        terms = aligned(self, x)
        return sum(terms[1:], terms[0]), jax.tree.map(lambda term: term[:0], x)

    def input_gradient(self, params, no_x, g: Float[Array, "n ..."]):
        return jax.tree.map(lambda term: summed(g, term.shape[1:]), no_x)


@dataclass(frozen=True)
class Multiply(Layer):
    """Multiplies the arrays of a tuple, list or dict. Behind the examples' axis, shapes broadcast as in NumPy."""

    position_wise = True

    def forward(self, params, x: PyTree, rng=None):
        factors = aligned(self, x)
        return reduce(mul, map(widened, factors)).astype(factors[0].dtype), x

    def input_gradient(self, params, x, g: Float[Array, "n ..."]):
        factors, (arrays, structure) = aligned(self, x), jax.tree.flatten(x)
        before = [1, *accumulate(map(widened, factors[:-1]), mul)]
        behind = [1, *accumulate(map(widened, factors[:0:-1]), mul)][::-1]
        gradients = [widened(g) * left * right for left, right in zip(before, behind, strict=True)]
        return structure.unflatten(
            [summed(dx, a.shape[1:]).astype(a.dtype) for dx, a in zip(gradients, arrays, strict=True)]
        )


@dataclass(frozen=True)
class WeightedSum(Layer):
    """Σ_e w_e x_e of a pair (x, w): x [n, e, *positions, ...], as `Vmap` returns it, and w [n, *positions, e].

    The end of a mixture of experts, where w comes from a gate, or of an ensemble.
    """

    def forward(self, params, x: PyTree, rng=None):
        terms, weights = self._pair(x)
        return jnp.sum(widened(terms) * widened(weights), 1).astype(terms.dtype), x

    def input_gradient(self, params, x, g: Float[Array, "n ..."]):
        (terms, weights), g = self._pair(x), widened(g)[:, None]
        inner = range(x[1].ndim, terms.ndim)  # the axes f that one weight serves
        dweights = jnp.moveaxis(jnp.sum(g * widened(terms), inner), 1, -1)
        return (g * widened(weights)).astype(terms.dtype), dweights.astype(weights.dtype)

    def _pair(self, x):
        """x and w, with the axes of x."""
        if len(arrays_of(self, x)) != 2:
            raise LayerError(self, f"expected a pair (terms, weights), got {describe(x)}")
        terms, weights = x
        weights = jnp.moveaxis(weights, -1, 1) if weights.ndim > 1 else weights
        if weights.ndim < 2 or terms.shape[: weights.ndim] != weights.shape:
            expected = "terms [n, e, *positions, ...] and weights [n, *positions, e]"
            raise LayerError(self, f"expected {expected}, got {describe(x)}")
        return terms, expand(weights, terms.ndim)


def aligned(layer: Layer, x: PyTree) -> list[Array]:
    """The arrays in x, with axes of length 1 behind the examples' where others have more axes."""
    terms = arrays_of(layer, x)
    try:
        rank = 1 + len(np.broadcast_shapes(*(term.shape[1:] for term in terms)))
    except ValueError:
        raise LayerError(layer, f"expected shapes that broadcast behind the examples, got {describe(x)}") from None
    return [term.reshape(term.shape[0], *(1,) * (rank - term.ndim), *term.shape[1:]) for term in terms]


def summed(g: Float[Array, "n ..."], shape: tuple[int, ...]) -> Float[Array, "n ..."]:
    """g summed over the axes along which an array [n, *shape] was repeated."""
    own = (1,) * (g.ndim - 1 - len(shape)) + shape
    repeated = [i for i, (had, has) in enumerate(zip(own, g.shape[1:], strict=True), start=1) if had != has]
    if repeated:
        g = jnp.sum(widened(g), repeated).astype(g.dtype)
    return g.reshape(g.shape[0], *shape)


def arrays_of(layer: Layer, x: PyTree) -> list[Array]:
    """The arrays of a tuple, list or dict; raises unless they are floating-point, of one dtype, for one batch."""
    entries = list(x.values()) if isinstance(x, dict) else x
    if not isinstance(entries, tuple | list) or not entries:
        raise LayerError(layer, f"expected a tuple of arrays, as Parallel returns it, got {describe(x)}")
    for term in entries:
        require_floating(layer, term)
    if any(term.ndim == 0 or term.shape[0] != entries[0].shape[0] for term in entries):
        raise LayerError(layer, f"expected arrays [examples, ...] of equally many examples, got {describe(x)}")
    if any(term.dtype != entries[0].dtype for term in entries):
        raise LayerError(layer, f"expected arrays of equal dtype, got {describe(x)}; convert them with astype")
    return jax.tree.leaves(x)


def keys_of(tree: PyTree) -> tuple:
    """The keys of a dict, the names and indices of a named tuple, the indices of a tuple; () of all else."""
    if isinstance(tree, dict):
        return tuple(tree)
    return (*getattr(tree, "_fields", ()), *range(len(tree))) if isinstance(tree, tuple | list) else ()
