"""Per-example gradients: one parameter gradient for each example of the batch.

The loss is a mean over N examples and every layer treats them apart, so ∂J/∂θ = Σ_n ∂J_n/∂θ, where J_n is what example
n contributes to J. Throughout `jaxbp.quantities`

    G_n = N ∂J_n/∂θ          with equal weights: the gradient of the example's own loss l_n

so that the gradient is the mean of the G_n. A layer linear in W has factors a[n,t] (what came in) and g[n,t] (the error
that came back), t over the positions that share W: G_n = Σ_t a[n,t]ᵀ g[n,t]. Other layers are asked for the parameter
gradient of each example alone, under vmap.

Source: Goodfellow, Efficient Per-Example Gradient Computations (2015), arXiv 1510.01799.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxbp.backprop import Quantity
from jaxbp.core.errors import LayerError
from jaxbp.core.layer import Layer, Params, Site
from jaxbp.core.numerics import accumulation_dtype, contract
from jaxbp.core.paths import as_path, layers
from jaxbp.core.text import describe
from jaxbp.losses.base import Loss, require_independent_loss


def per_example_gradient(site: Site) -> Params:
    """N ∂J_n/∂θ for every n: the tree of params, each array with [n] in front ([turns, n] inside a `Repeat`)."""
    return contribution(own(site))


def require_independent(model: Layer, loss: Loss | None = None) -> None:
    """Raises if layers mix examples, by path, or the loss does: per-example gradients are then undefined."""
    for path, layer in layers(model):
        if layer.mixes_examples and not layer.children:
            raise mixing(path, layer)
    if model.mixes_examples:
        raise mixing("", model)
    if loss is not None:
        require_independent_loss(loss)


per_example_gradients = Quantity(per_example_gradient, require=require_independent)


def contribution(site: Site) -> Params:
    """∂J_n/∂θ for every n, on the scale of the delta as it is."""
    n = examples(site)
    if not jax.tree.leaves(site.params):
        return site.params
    if positions(site):
        return each_pair(site, lambda a, g: gradient_of(site, a, g))
    shared = [leaf for leaf in jax.tree.leaves(site.residuals) if not belongs(leaf, n)]
    if shared:
        problem = f"keeps {describe(shared[0])} for the whole batch of {n}, so its gradient can't be taken example by "
        raise LayerError(site.layer, f"{problem}example; keep residuals [examples, ...]", as_path(site.path))
    return jax.vmap(lambda *one: site.layer.param_gradient(site.params, *alone(one)))(site.residuals, site.g)


def gradient_of(site: Site, a: Float[Array, "t i"], g: Float[Array, "t o"]) -> Params:
    """Σ_t aᵀ g of one example, as the layer's parameters."""
    weight = site.params["weight"]
    gradient = {"weight": contract("ti,to->io", a, g, dtype=weight.dtype).reshape(weight.shape)}
    if "bias" in site.params:
        gradient["bias"] = jnp.sum(g, 0, accumulation_dtype(g)).astype(site.params["bias"].dtype)
    return gradient


def each_pair(site: Site, function: Callable[[Array, Array], PyTree]) -> PyTree:
    """function(a[n], g[n]) for every example, stacked.

    On CPU one after the other: XLA has no fast batched matmul there, and the a of one example stay in the cache (norms
    of a 5x5 convolution from 32 to 64 channels, 128 examples of 14x14: 38 ms in place of 171 ms).
    """

    def one(pair):
        a, g = site.layer.affine(site.params, *alone(pair))
        return function(a[0], g[0])

    each = lax.map if jax.default_backend() == "cpu" and positions(site) > 1 else lambda f, x: jax.vmap(f)(x)
    if separable(site):
        return each(one, (site.residuals, site.g))
    return each(lambda pair: function(*pair), factors(site))


def separable(site: Site) -> bool:
    """Whether one example's residuals give its factors: not where a residual begins with time, even if T = N."""
    n, whole = examples(site), factor_shapes(site)
    if not all(belongs(leaf, n) for leaf in jax.tree.leaves(site.residuals)):
        return False
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), (site.residuals, site.g))
    single = factor_shapes(replace(site, residuals=first[0], g=first[1]))
    return [s.shape for s in single] == [(1, *s.shape[1:]) for s in whole]


def belongs(residual: Array, n: int) -> bool:
    """Whether it counts examples first: what is there for the batch as a whole (a key, a mean) can't be taken apart."""
    return residual.ndim > 0 and residual.shape[0] == n and not jnp.issubdtype(residual.dtype, jax.dtypes.prng_key)


def alone(tree: PyTree) -> PyTree:
    """One example as a batch of one."""
    return jax.tree.map(lambda leaf: leaf[None], tree)


def factor_shapes(site: Site) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct] | None:
    """Shapes of the factors, without computing them."""

    def run(params, residuals, g):
        return factors(replace(site, params=params, residuals=residuals, g=g))

    return jax.eval_shape(run, site.params, site.residuals, site.g)


def positions(site: Site) -> int:
    """T, the positions of an example that share the weights; 0 where the layer has no factors."""
    pair = factor_shapes(site)
    return pair[0].shape[1] if pair else 0


def factors(site: Site) -> tuple[Array, Array] | None:
    """The layer's factors a [n, t, I] and g [n, t, O], where it has them."""
    if not jax.tree.leaves(site.params):
        return None
    return site.layer.affine(site.params, site.residuals, site.g)


def examples(site: Site) -> int:
    """N, or a refusal where examples are mixed."""
    if site.layer.mixes_examples:
        raise mixing(site.path, site.layer)
    deltas = jax.tree.leaves(site.g)
    return deltas[0].shape[0] if deltas else 0  # integer outputs have no delta


def own(site: Site) -> Site:
    """The site with the delta times N."""
    n = examples(site)
    return replace(site, g=jax.tree.map(lambda g: g * n, site.g))


def over_turns(x: PyTree, rank: int) -> PyTree:
    """The sum over the axes that every `Repeat` around the layer puts in front of an answer of this rank."""
    return jax.tree.map(lambda a: jnp.sum(a, range(a.ndim - rank)), x)


def mixing(path: str, layer: Layer) -> LayerError:
    """The refusal itself."""
    problem = "mixes the examples of a batch, so no gradient belongs to one of them; normalise each example by itself"
    return LayerError(layer, f"{problem} (LayerNorm, GroupNorm)", as_path(path))
