"""Preconditioning with Kronecker factors, and EKFAC, which corrects their eigenvalues.

With A = Q_A diag(α) Q_Aᵀ and B = Q_B diag(β) Q_Bᵀ the curvature A ⊗ B of a weight has the eigenvectors Q_A ⊗ Q_B and
the eigenvalues α_i β_o. EKFAC keeps the eigenvectors, and takes for eigenvalues the GGN's own diagonal in that basis,

    s[i,o] = Σ_{n,c} (Q_Aᵀ G_n Q_B)²[i,o]         G_n from column c of the loss's curvature, see `fisher.py`

of all choices the one nearest to the GGN in the Frobenius norm. Either way a gradient matrix G is divided by it as

    (curvature + λ)⁻¹ G = Q_A ((Q_Aᵀ G Q_B) / (s + λ)) Q_Bᵀ

    _, gradient, factors = kronecker_factors(model, loss, Exact())(params, x, targets)
    eigen = ekfac(model, loss, Exact())(params, kronecker_eigenbasis(factors), x, targets)
    step = precondition(model, eigen, gradient, damping=1e-3)

Source: George et al., Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis, arXiv 1806.03884.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxbp.backprop import Targets, run
from jaxbp.core.layer import Layer, Params
from jaxbp.core.numerics import accumulation_dtype, contract
from jaxbp.core.paths import from_leaves, layers, leaves
from jaxbp.core.sweep import keep, kept_site
from jaxbp.curvature.fisher import Fisher, sum_over
from jaxbp.curvature.kronecker import (
    Factors,
    as_matrix,
    damped_inverse,
    from_matrix,
    require_affine,
    required_factors,
    with_one,
)
from jaxbp.losses.base import Loss
from jaxbp.quantities.per_example import require_independent


class Eigen(NamedTuple):
    """A curvature with known eigenvectors: Q_A [I, I], Q_B [O, O] and the eigenvalues [I, O]."""

    inputs: Float[Array, "*turns i i"]
    outputs: Float[Array, "*turns o o"]
    values: Float[Array, "*turns i o"]


def kronecker_eigenbasis(factors: PyTree) -> PyTree:
    """A ⊗ B by eigenvalues and eigenvectors: a tree like that of the factors, with `Eigen`."""

    def one(f: Factors) -> Eigen:
        (a, q_a), (b, q_b) = jnp.linalg.eigh(f.inputs), jnp.linalg.eigh(f.outputs)
        return Eigen(q_a, q_b, a[..., :, None] * b[..., None, :])

    return jax.tree.map(one, factors, is_leaf=lambda f: isinstance(f, Factors))


def ekfac(model: Layer, loss: Loss, fisher: Fisher) -> Callable[..., PyTree]:
    """The eigenvalues of EKFAC.

    Args:
        model: any layer whose leaves with parameters give `affine`.
        loss: a loss that gives its curvature.
        fisher: Exact(), MonteCarlo(samples) or Empirical().

    Returns:
        A function (params, eigen, x, targets, rng=None, weights=None, key=None) -> the tree of `kronecker_eigenbasis`
        with the values s in place of those it had.
    """
    require_independent(model, loss)

    def second_moments(
        params: Params,
        eigen: PyTree,
        x: PyTree,
        targets: Targets,
        rng: PRNGKeyArray | None = None,
        weights: Float[Array, " n"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> PyTree:
        forward = run(model, loss, params, x, targets, rng, weights)
        require_affine(model, params, forward.x)
        count, column = fisher.columns(loss, forward.kept, forward.outputs, key)
        by_path, bases = leaves(model, params), leaves(model, eigen)
        shown = dict(layers(model))

        def one_column(i):
            _, seen = forward.sweep(keep, column(i))
            return {
                path: over_turns(rotated(path, shown[path]), basis.values.ndim - 2)(by_path[path], seen_at, basis)
                for (path, seen_at), basis in zip(leaves(model, seen).items(), bases.values(), strict=True)
                if isinstance(basis, Eigen)
            }

        values = sum_over(count, one_column)
        return from_leaves(model, {p: b._replace(values=values[p]) if p in values else b for p, b in bases.items()})

    return second_moments


def rotated(path: str, layer: Layer) -> Callable[..., Array]:
    """Σ_n (Q_Aᵀ G_n Q_B)² of one layer."""

    def squares(params, kept, basis):
        site = kept_site(path, layer, params, kept)
        a, g = required_factors(site)
        a, g = with_one(site, a) @ basis.inputs, g @ basis.outputs
        if a.shape[1] == 1:
            return contract("nti,nto->io", a * a, g * g, dtype=accumulation_dtype(g))
        return jnp.sum(jnp.square(contract("nti,nto->nio", a, g, dtype=accumulation_dtype(g))), 0)

    return squares


def over_turns(function: Callable, turns: int) -> Callable:
    """vmap over the turns of every `Repeat` around a layer."""
    return jax.vmap(over_turns(function, turns - 1)) if turns else function


def precondition(model: Layer, curvature: PyTree, gradient: Params, damping: float | Array) -> Params:
    """(curvature + λ)⁻¹ on a gradient, layer by layer: the natural gradient, for the curvature that is given.

    Args:
        model: the model of the parameters.
        curvature: a tree of `Factors`, between whose two λ is shared (see `damped_inverse`), or of `Eigen`, where λ is
            added exactly.
        gradient: the tree of params.
        damping: λ > 0.
    """
    by_path = leaves(model, curvature)

    def one(path, own):
        at = by_path[path]
        if not isinstance(at, Factors | Eigen):
            return own
        matrix = as_matrix(own, at.inputs.ndim - 2)
        if isinstance(at, Eigen):
            return from_matrix(solve(at, matrix, damping), own)
        inverse = damped_inverse(at, damping)
        return from_matrix(inverse.inputs @ matrix @ inverse.outputs, own)

    return from_leaves(model, {path: one(path, own) for path, own in leaves(model, gradient).items()})


def solve(eigen: Eigen, matrix: Float[Array, "*turns i o"], damping: float | Array) -> Array:
    """(curvature + λ)⁻¹ on a layer's gradient matrix, exactly."""
    q_a, q_b = eigen.inputs, eigen.outputs
    inner = jnp.swapaxes(q_a, -1, -2) @ matrix @ q_b / (eigen.values + damping)
    return q_a @ inner @ jnp.swapaxes(q_b, -1, -2)
