"""Kronecker factors: the curvature of one layer's weights as a product of two small matrices.

A layer linear in W has ∂J/∂W = Σ_t a[n,t]ᵀ g[n,t], t over the T positions that share W. With g from one column c of the
loss's curvature (see `fisher.py`) its block of the GGN is Σ_{n,c} vec(Σ_t a g)(…)ᵀ, and K-FAC takes it for A ⊗ B:

    expand    A = 1/(NT) Σ_{n,t} aᵀ a                        B = Σ_{n,t,c} gᵀ g            each position an example
    reduce    A = 1/N Σ_n āᵀ ā,  ā[n] = 1/T Σ_t a[n,t]       B = Σ_{n,c} ḡᵀ ḡ,  ḡ[n] = Σ_t g[n,t]

For T = 1 they agree. A bias is one more input that is always 1, the last row of A. The product is exact for one example
with one position and for deep linear networks with the squared error: expand where each position has a loss of its own,
reduce where the positions are averaged.

Sources: Martens & Grosse, arXiv 1503.05671; Grosse & Martens, arXiv 1602.01407 (convolution); Eschenhagen et al., arXiv
2311.00636 (expand and reduce); Dangel et al., arXiv 2507.05127.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxbp.backprop import Targets, run
from jaxbp.core.errors import LayerError
from jaxbp.core.layer import Layer, Params, Site
from jaxbp.core.numerics import accumulation_dtype, contract
from jaxbp.core.paths import as_path, from_leaves, layers, leaves
from jaxbp.core.sweep import sweep
from jaxbp.curvature.fisher import Fisher, sum_over_columns
from jaxbp.losses.base import Loss
from jaxbp.quantities.per_example import examples, factors, require_independent


class Factors(NamedTuple):
    """A [I, I] of what comes in (with the bias's 1 as last entry) and B [O, O] of the errors that come back."""

    inputs: Float[Array, "*turns i i"]
    outputs: Float[Array, "*turns o o"]


Share = Callable[[Array, Array], tuple[Array, Array]]


def kfac_expand(a: Float[Array, "n t i"], g: Float[Array, "n t o"]) -> tuple[Array, Array]:
    """K-FAC expand: each position is an example of its own."""
    return a.reshape(-1, a.shape[-1]), g.reshape(-1, g.shape[-1])


def kfac_reduce(a: Float[Array, "n t i"], g: Float[Array, "n t o"]) -> tuple[Array, Array]:
    """K-FAC reduce: the mean of what comes in, the sum of what comes back."""
    return jnp.mean(a, 1), jnp.sum(g, 1)


def kronecker_factors(
    model: Layer, loss: Loss, fisher: Fisher, share: Share = kfac_expand, examples: int | None = None
) -> Callable[..., tuple[Array, Params, PyTree]]:
    """The loss, its gradient and every layer's Kronecker factors.

    Args:
        model: any layer whose leaves with parameters give `affine`.
        loss: a loss that gives its curvature.
        fisher: Exact(), MonteCarlo(samples) or Empirical().
        share: kfac_expand or kfac_reduce, for weights that many positions share.
        examples: how many of the batch, the first ones, the factors are made of; None: all. The factors of a wide
            network cost more than its gradient, and an eighth of the batch will do (Martens & Grosse, section 8).

    Returns:
        A function (params, x, targets, rng=None, weights=None, key=None) -> (loss, gradient, factors), the last a tree
        that mirrors the model, with `Factors`, or () where there are no parameters. MonteCarlo draws from `key`. A
        counts all examples alike; weights are in B.
    """
    require_independent(model, loss)
    if examples is not None and examples < 1:
        raise ValueError(f"expected at least one example for the factors, got examples={examples}")

    def value_gradient_and_factors(
        params: Params,
        x: PyTree,
        targets: Targets,
        rng: PRNGKeyArray | None = None,
        weights: Float[Array, " n"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Array, Params, PyTree]:
        forward = run(model, loss, params, x, targets, rng, weights)
        require_affine(model, params, forward.x)
        value, (_, gradient) = forward.value, forward.sweep()
        if examples is not None:
            x, targets, weights = jax.tree.map(lambda a: a[:examples], (forward.x, forward.targets, weights))
            forward = run(model, loss, params, x, targets, rng, weights)
        columns = fisher.columns(loss, forward.kept, forward.outputs, key)
        _, inputs = forward.sweep(lambda site: inputs_factor(site, share), columns[1](0))
        outputs = sum_over_columns(forward, columns, lambda site: outputs_factor(site, share))
        pairs = zip(leaves(model, inputs).items(), leaves(model, outputs).values(), strict=True)
        factors = {path: () if isinstance(a, tuple) else Factors(a, b) for (path, a), b in pairs}
        return value, gradient, from_leaves(model, factors)

    return value_gradient_and_factors


def inputs_factor(site: Site, share: Share) -> Array | tuple:
    """The visit: A."""
    if not jax.tree.leaves(site.params):
        return ()
    a = with_one(site, share(*required_factors(site))[0])
    return contract("ni,nj->ij", a, a, dtype=accumulation_dtype(a)) / a.shape[0]


def outputs_factor(site: Site, share: Share) -> Array | tuple:
    """The visit: one column's part of B."""
    if not jax.tree.leaves(site.params):
        return ()
    _, g = share(*required_factors(site))
    return contract("no,np->op", g, g, dtype=accumulation_dtype(g))


def with_one(site: Site, a: Float[Array, "*n i"]) -> Array:
    """a with a last entry 1 where there is a bias."""
    return jnp.concatenate([a, jnp.ones((*a.shape[:-1], 1), a.dtype)], -1) if "bias" in site.params else a


def as_matrix(gradient: Params, turns: int) -> Float[Array, "*turns i o"]:
    """A layer's gradient as the matrix that A and B act on from left and right: the bias is its last row."""
    weight = gradient["weight"]
    matrix = weight.reshape(*weight.shape[:turns], -1, weight.shape[-1])
    return jnp.concatenate([matrix, gradient["bias"][..., None, :]], -2) if "bias" in gradient else matrix


def from_matrix(matrix: Float[Array, "*turns i o"], like: Params) -> Params:
    """The inverse of `as_matrix`."""
    if "bias" not in like:
        return {"weight": matrix.reshape(like["weight"].shape)}
    return {"weight": matrix[..., :-1, :].reshape(like["weight"].shape), "bias": matrix[..., -1, :]}


def damped_inverse(f: Factors, damping: float | Array) -> Factors:
    """(A + π √λ)⁻¹ and (B + √λ / π)⁻¹, with π² the ratio of their mean eigenvalues: λ shared by size.

    Source: Martens & Grosse, arXiv 1503.05671, section 6.3.
    """
    mean_a, mean_b = (jnp.trace(m, axis1=-2, axis2=-1)[..., None, None] / m.shape[-1] for m in f)
    tiny = jnp.finfo(mean_a.dtype).tiny
    ratio = jnp.sqrt(jnp.maximum(mean_a, tiny) / jnp.maximum(mean_b, tiny))
    root = jnp.sqrt(jnp.asarray(damping, mean_a.dtype))
    return Factors(inverse(f.inputs, root * ratio), inverse(f.outputs, root / ratio))


def inverse(matrix: Float[Array, "*turns d d"], damping: Array) -> Array:
    """(M + λ)⁻¹ of a symmetric matrix without negative eigenvalues, by Cholesky."""
    eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    lower = jnp.linalg.cholesky(matrix + damping * eye)
    half = jax.scipy.linalg.solve_triangular(lower, jnp.broadcast_to(eye, matrix.shape), lower=True)
    return jnp.swapaxes(half, -1, -2) @ half


def required_factors(site: Site) -> tuple[Array, Array]:
    """The layer's factors, or a refusal by name."""
    examples(site)
    pair = factors(site)
    if pair is None:
        raise no_factors(site.layer, site.path)
    return pair


def require_affine(model: Layer, params: Params, x: PyTree = None) -> None:
    """Refuses layers with parameters that don't give `affine`, before anything runs.

    Without x layers are asked whether they define it at all, with x whether they give it for such inputs.
    """
    by_path = leaves(model, params)
    for path, layer in layers(model):
        if path in by_path and jax.tree.leaves(by_path[path]) and type(layer).affine is Layer.affine:
            raise no_factors(layer, path)

    def dry_run(params, x):
        y, residuals = model.forward(params, x)
        return sweep(model, params, residuals, y, lambda site: jax.tree.leaves(site.params) and required_factors(site))

    if x is not None:
        jax.eval_shape(dry_run, params, x)


def no_factors(layer: Layer, path: str) -> LayerError:
    """The refusal itself."""
    return LayerError(layer, "has parameters but no Kronecker factors: its `affine` gives none", as_path(path))
