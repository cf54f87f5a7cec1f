"""Ghost norms: the size of each example's gradient, without the gradient.

With the factors G_n = Σ_t a[n,t]ᵀ g[n,t] of a layer (I inputs, O outputs, t and s over T positions),

    ‖G_n‖² = Σ_{t,s} (a[n,t]·a[n,s]) (g[n,t]·g[n,s])       the Gram form, about T² (I + O) products
           = Σ_{i,o} (Σ_t a[n,t,i] g[n,t,o])²              the materialised form, T I O of them

and the cheaper one is taken. For T = 1 the first is ‖a‖²‖g‖². A bias is one more input that is always 1.

Sources: Goodfellow, arXiv 1510.01799; Bu et al., arXiv 2205.10683 (the choice, layer by layer).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxbp.backprop import Quantity
from jaxbp.core.layer import ArrayLike, Site
from jaxbp.core.numerics import accumulation_dtype, contract, widened
from jaxbp.quantities.per_example import (
    contribution,
    each_pair,
    examples,
    factor_shapes,
    factors,
    gradient_of,
    over_turns,
    own,
    require_independent,
)


def squared_norm(site: Site) -> Float[Array, " n"] | tuple:
    """‖∂J_n/∂θ‖² of one layer, on the scale of the delta as it is; () where there are no parameters."""
    examples(site)
    shapes = factor_shapes(site)
    if shapes is None:
        parts = [sum_squares(x, 1) for x in jax.tree.leaves(contribution(site))]
        return sum(parts) if parts else ()
    one = 1 if "bias" in site.params else 0
    if shapes[0].shape[1] == 1:
        a, g = factors(site)
        return (sum_squares(a, 1) + one) * sum_squares(g, 1)

    def gram(a, g):
        alike = contract("ti,si->ts", a, a, dtype=accumulation_dtype(a)) + one
        return jnp.sum(alike * contract("to,so->ts", g, g, dtype=accumulation_dtype(g)))

    def materialised(a, g):
        return sum(sum_squares(x, 0) for x in jax.tree.leaves(gradient_of(site, a, g)))

    return each_pair(site, gram if prefers_gram(*shapes) else materialised)


def prefers_gram(a: ArrayLike, g: ArrayLike) -> bool:
    """Whether the Gram form takes fewer products than the materialised one, for a [n, T, I] and g [n, T, O]."""
    positions, inputs, outputs = a.shape[1], a.shape[2], g.shape[2]
    return positions * (inputs + outputs) <= inputs * outputs or positions == 1


def sum_squares(x: Array, axis: int) -> Array:
    """Over this axis and those behind it, in float32 or wider."""
    return jnp.sum(jnp.square(widened(x)), range(axis, x.ndim))


def layer_norm(site: Site) -> Float[Array, " n"] | tuple:
    """‖G_n‖ of each layer by itself: a tree of [n] ([turns, n] inside a `Repeat`), () where there are no parameters."""
    return jax.tree.map(jnp.sqrt, squared_norm(own(site)))


def total_norm(squares: PyTree) -> Float[Array, " n"]:
    """√ of the sum of the layers' squares."""
    return jnp.sqrt(sum(jax.tree.leaves(over_turns(squares, 1))))


per_example_norms = Quantity(
    lambda site: squared_norm(own(site)),
    total_norm,
    require_independent,
    doc="‖G_n‖ over all parameters, [n]: the size of each example's gradient, which is not formed.",
)
per_example_layer_norms = Quantity(layer_norm, require=require_independent)
