"""Per-example gradients: one parameter gradient for each example of the batch.

The loss is a mean over N examples and every layer treats them apart, so ∂J/∂θ = Σ_n ∂J_n/∂θ, where J_n is what example
n contributes to J. Throughout `jaxbp.quantities`

    G_n = N ∂J_n/∂θ          with equal weights: the gradient of the example's own loss l_n

so that the gradient is the mean of the G_n. A layer linear in W has factors a[n,t] (what came in) and g[n,t] (the error
that came back), t over the positions that share W: G_n = Σ_t a[n,t]ᵀ g[n,t]. Other layers are asked for the parameter
gradient of each example alone, under vmap.

Source: Goodfellow, Efficient Per-Example Gradient Computations (2015), arXiv 1510.01799.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxbp.backprop import Quantity
from jaxbp.layer import Layer, LayerError, Params, Site, contract, describe
from jaxbp.reverse import Composite, as_path, layers


def individual_gradient(site: Site) -> Params:
    """The visit: N ∂J_n/∂θ for every n, shaped like the parameters with the examples' axis [n] in front."""
    return contribution(own(site))


def require_independent(model: Layer) -> None:
    """Refuses a model in which an example's gradient is no example's own, by the path of the layer that mixes them."""
    for path, layer in layers(model):
        if layer.mixes_examples and not isinstance(layer, Composite):
            raise mixing(path, layer)
    if model.mixes_examples:
        raise mixing("", model)


individual_gradients = Quantity(individual_gradient, require=require_independent)


def contribution(site: Site) -> Params:
    """∂J_n/∂θ for every n, on the scale of the delta as it is."""
    n = examples(site)
    pair = factors(site)
    if pair is not None:
        a, g = pair
        weight, dtype = site.params["weight"], site.params["weight"].dtype
        gradient = {"weight": contract("nti,nto->nio", a, g, dtype=dtype).reshape(n, *weight.shape)}
        if "bias" in site.params:
            bias = site.params["bias"]
            gradient["bias"] = jnp.sum(g, 1, wide(g)).astype(bias.dtype)
        return gradient
    if not jax.tree.leaves(site.params):
        return site.params
    for leaf in jax.tree.leaves(site.residuals):
        if leaf.ndim == 0 or leaf.shape[0] != n or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            problem = f"keeps {describe(leaf)} for the whole batch of {n}, so its gradient can't be taken example by "
            raise LayerError(site.layer, f"{problem}example; keep residuals [examples, ...]", as_path(site.path))

    def alone(residuals, g):
        one = jax.tree.map(lambda leaf: leaf[None], (residuals, g))
        return site.layer.param_gradient(site.params, *one)

    return jax.vmap(alone)(site.residuals, site.g)


def factors(site: Site) -> tuple[Array, Array] | None:
    """The layer's factors a [n, t, I] and g [n, t, O], where it has them."""
    if not jax.tree.leaves(site.params):
        return None
    return site.layer.affine(site.params, site.residuals, site.g)


def examples(site: Site) -> int:
    """N, or a refusal where examples are mixed."""
    if site.layer.mixes_examples:
        raise mixing(site.path, site.layer)
    return jax.tree.leaves(site.g)[0].shape[0]


def own(site: Site) -> Site:
    """The site with the delta times N."""
    n = examples(site)
    return replace(site, g=jax.tree.map(lambda g: g * n, site.g))


def wide(x: Array):
    """The dtype to add up in."""
    return jnp.promote_types(x.dtype, jnp.float32)


def over_turns(x: PyTree, rank: int) -> PyTree:
    """The sum over the axes that every `Repeat` around the layer puts in front of an answer of this rank."""
    return jax.tree.map(lambda a: jnp.sum(a, range(a.ndim - rank)), x)


def mixing(path: str, layer: Layer) -> LayerError:
    """The refusal itself."""
    problem = "mixes the examples of a batch, so no gradient belongs to one of them; normalise each example by itself"
    return LayerError(layer, f"{problem} (LayerNorm, GroupNorm)", as_path(path))
