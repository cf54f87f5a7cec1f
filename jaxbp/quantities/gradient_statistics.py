"""How much the examples agree: variance, signal-to-noise ratio and gradient noise scale.

    ḡ = 1/N Σ_n G_n            variance = 1/N Σ_n G_n² - ḡ²            signal to noise = ḡ² / variance

element by element. Where each example has one position, G_n[i,o] = a[n,i] g[n,o], so Σ_n G_n² = (a²)ᵀ g²: as cheap as
the gradient. Else the G_n of one layer are formed, one layer at a time.

The noise scale is the batch size at which noise and signal are alike: tr Σ / ‖G‖², with Σ the covariance of the G_n and
G the true gradient. Both are estimated without bias from one batch of N ≥ 2:

    tr Σ ≈ (Σ_n ‖G_n‖² - N ‖ḡ‖²) / (N - 1)            ‖G‖² ≈ ‖ḡ‖² - tr Σ / N

Sources: Dangel et al., BackPACK, arXiv 1912.10985; McCandlish et al., arXiv 1812.06162, appendix A.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxbp.backprop import Quantity
from jaxbp.core.layer import Params, Site
from jaxbp.core.numerics import contract, widened
from jaxbp.core.sweep import param_gradient
from jaxbp.quantities.ghost_norms import squared_norm
from jaxbp.quantities.per_example import (
    contribution,
    examples,
    factors,
    over_turns,
    own,
    positions,
    require_independent,
)


def sum_of_squares(site: Site) -> Params:
    """Σ_n (∂J_n/∂θ)², element by element, on the scale of the delta as it is."""
    examples(site)
    if positions(site) != 1:
        return jax.tree.map(lambda x: jnp.sum(jnp.square(widened(x)), 0).astype(x.dtype), contribution(site))
    a, g = (jnp.square(factor[:, 0]) for factor in factors(site))
    weight = site.params["weight"]
    squares = {"weight": contract("ni,no->io", a, g, dtype=weight.dtype).reshape(weight.shape)}
    return squares | ({"bias": jnp.sum(g, 0).astype(site.params["bias"].dtype)} if "bias" in site.params else {})


def second_moment(site: Site) -> Params:
    """1/N Σ_n G_n², element by element: the tree of params."""
    return jax.tree.map(lambda s: s * examples(site), sum_of_squares(site))


def element_variance(site: Site) -> Params:
    """1/N Σ_n (G_n - ḡ)², element by element: the tree of params."""
    return jax.tree.map(lambda m, g: jnp.maximum(m - g * g, 0), second_moment(site), param_gradient(site))


def element_signal(site: Site) -> Params:
    """ḡ² / variance, element by element; zero where both are, infinite where all examples agree."""
    return jax.tree.map(
        lambda v, g: jnp.where(g == 0, 0, g * g / jnp.where(g == 0, 1, v)), element_variance(site), param_gradient(site)
    )


class NoiseScale(NamedTuple):
    """noise: tr Σ. signal: ‖G‖², which may come out negative in small batches. scale: their ratio, in examples."""

    noise: Float[Array, ""]
    signal: Float[Array, ""]
    scale: Float[Array, ""]


class _Sizes(NamedTuple):
    single: Array | tuple  # ‖G_n‖², [n]
    mean: Array | float  # ‖ḡ‖²


def sizes(site: Site) -> _Sizes:
    """The visit: what the noise scale is made of."""
    squares = [jnp.sum(jnp.square(widened(g))) for g in jax.tree.leaves(param_gradient(site))]
    return _Sizes(squared_norm(own(site)), sum(squares) if squares else ())


def estimate(tree: PyTree) -> NoiseScale:
    """Joins the layers' sizes."""
    found = [
        s for s in jax.tree.leaves(tree, is_leaf=lambda s: isinstance(s, _Sizes)) if not isinstance(s.single, tuple)
    ]
    single, mean = sum(over_turns(s.single, 1) for s in found), sum(over_turns(s.mean, 0) for s in found)
    n = single.shape[0]
    if n < 2:
        raise ValueError("the gradient noise scale compares examples: it needs a batch of at least two")
    noise = (jnp.sum(single) - n * mean) / (n - 1)
    signal = mean - noise / n
    return NoiseScale(noise, signal, noise / signal)


gradient_second_moment = Quantity(second_moment, require=require_independent)
gradient_variance = Quantity(element_variance, require=require_independent)
signal_to_noise = Quantity(element_signal, require=require_independent)
noise_scale = Quantity(
    sizes, estimate, require_independent, doc="The gradient noise scale, a `NoiseScale`; of at least two examples."
)
