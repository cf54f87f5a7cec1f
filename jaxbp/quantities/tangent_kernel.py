"""Gram matrices of gradients: how much a step along one example's gradient moves another example.

    K[n,m] = ⟨G_n, G_m⟩ = Σ_{t,s} (a[n,t]·a[m,s]) (g[n,t]·g[m,s])          from the factors G_n = Σ_t a[n,t]ᵀ g[n,t]

summed over layers. For T = 1 that is (a aᵀ) ⊙ (g gᵀ): no gradient is formed. With g = ∂y[n,k]/∂y, one output at a time,
it is the neural tangent kernel, ⟨∂y[n,k]/∂θ, ∂y[m,l]/∂θ⟩.

Sources: Jacot et al., arXiv 1806.07572; Novak et al., arXiv 2206.08720.
"""

from math import prod

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxbp.backprop import Quantity, require_examples
from jaxbp.core.layer import Layer, Params, Site
from jaxbp.core.numerics import accumulation_dtype, contract
from jaxbp.core.sweep import sweep
from jaxbp.quantities.ghost_norms import prefers_gram
from jaxbp.quantities.per_example import contribution, examples, factors, over_turns, own, require_independent


def dot_products(site: Site) -> Float[Array, "n n"] | tuple:
    """⟨∂J_n/∂θ, ∂J_m/∂θ⟩ of one layer, on the scale of the delta as it is."""
    n = examples(site)
    pair = factors(site)
    if pair is None or not prefers_gram(*pair):
        flat = [x.reshape(n, -1) for x in jax.tree.leaves(contribution(site))]
        parts = [contract("np,mp->nm", x, x, dtype=accumulation_dtype(x)) for x in flat]
        return sum(parts) if parts else ()
    a, g = pair
    alike = contract("nti,msi->ntms", a, a, dtype=accumulation_dtype(a)) + ("bias" in site.params)
    return jnp.sum(alike * contract("nto,mso->ntms", g, g, dtype=accumulation_dtype(g)), (1, 3))


def total(products: PyTree) -> Float[Array, "n n"]:
    """The sum over layers, and over the turns of a `Repeat`."""
    return sum(jax.tree.leaves(over_turns(products, 2)))


gram_matrix = Quantity(
    lambda site: dot_products(own(site)),
    total,
    require_independent,
    doc="⟨G_n, G_m⟩ over all parameters, [n, n]: how alike the examples' gradients are.",
)


def tangent_kernel(model: Layer, params: Params, x: PyTree) -> Float[Array, "n k n k"]:
    """The neural tangent kernel of the model in evaluation, K[n,k,m,l] over n, m examples and k, l outputs.

    Every example is run once for each output.
    """
    require_independent(model)
    require_examples(x)
    shape = jax.eval_shape(lambda params, x: model.forward(params, x)[0], params, x).shape
    n, outputs = shape[0], prod(shape[1:])
    y, residuals = model.forward(params, jax.tree.map(lambda x: jnp.repeat(x, outputs, axis=0), x))
    one_output = jnp.tile(jnp.eye(outputs, dtype=y.dtype), (n, 1)).reshape(y.shape)
    _, products = sweep(model, params, residuals, one_output, visit=dot_products)
    return total(products).reshape(n, outputs, n, outputs)
