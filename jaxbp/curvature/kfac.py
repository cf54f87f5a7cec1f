"""K-FAC: gradient descent in the metric of the Fisher information, layer by layer.

    Ā, B̄ ← running means of the Kronecker factors          (bias-corrected)
    u     = (Ā + π√λ)⁻¹ ∂J/∂W (B̄ + √λ/π)⁻¹                 inverses renewed every few steps
    ν     = min(1, √(κ / (η² Σ ⟨u, ∂J/∂W⟩)))                no step is longer than κ in that metric
    v     ← μ v + ν u,     W ← W - η v

The factors come with the gradient, from `kronecker_factors`:

    value, gradient, factors = kronecker_factors(model, loss, MonteCarlo())(params, x, targets, key=key)
    updates, state = optimizer.update(gradient, state, params, factors=factors)

Without a learning rate, each step is the best one in the plane of u and the last step v, by the quadratic model of the
loss with the true curvature, which `ggn_products` of a part of the batch tells:

    ⟨δ, ∂J/∂W⟩ + ½ ⟨δ, (GGN + λ) δ⟩,   δ = -α u + μ v     least at (α, μ);   v ← δ,   W ← W + v

    curvature = ggn_products(model, loss, params, x[:part], targets[:part])
    updates, state = optimizer.update(gradient, state, params, factors=factors, curvature=curvature)

Sources: Martens & Grosse, arXiv 1503.05671 (sections 6.4 and 7: α and μ); Ba et al., Distributed K-FAC (2017), for κ.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxbp.core.layer import Layer, Params
from jaxbp.core.numerics import accumulation_dtype, is_concrete
from jaxbp.core.paths import from_leaves, leaves, turns_around
from jaxbp.curvature.kronecker import Factors, as_matrix, damped_inverse, from_matrix, require_affine
from jaxbp.quantities.per_example import require_independent


class KfacState(NamedTuple):
    """count: steps made. seen: those with factors. factors, inverses, velocity (v): by path, layers with parameters."""

    count: Int[Array, ""]
    seen: Int[Array, ""]
    factors: dict[str, Factors]
    inverses: dict[str, Factors]
    velocity: dict[str, Array]


def kfac(
    model: Layer,
    learning_rate: float | optax.Schedule | None,
    damping: float | optax.Schedule = 1e-3,
    momentum: float = 0.9,
    norm_constraint: float | None = None,
    decay: float = 0.95,
    inverse_every: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """An optax optimizer whose update also takes `factors`, the tree of `kronecker_factors`, under the user's jit.

    Factors cost about as much as the gradient. Steps after the first may go without them (factors=None): then the means
    stay as they are. Without a learning rate the update takes `curvature` too, from `ggn_products`.

    Args:
        model: the model of the parameters; all its layers with parameters give `affine`.
        learning_rate: η, a number or a schedule of the step; None: the quadratic model finds step and momentum.
        damping: λ > 0, a number or a schedule.
        momentum: μ, where there is a learning rate.
        norm_constraint: κ, where there is a learning rate; None: none.
        decay: of the running means of the factors.
        inverse_every: steps between two inversions.
    """
    require_independent(model)
    if inverse_every < 1 or not 0 <= decay < 1 or not 0 <= momentum < 1:
        raise ValueError(
            f"expected inverse_every >= 1, 0 <= decay < 1 and 0 <= momentum < 1, "
            f"got {inverse_every}, {decay} and {momentum}"
        )
    if (norm_constraint is not None and not norm_constraint > 0) or (not callable(damping) and not damping > 0):
        raise ValueError(f"expected positive damping and norm_constraint, got {damping} and {norm_constraint}")
    if learning_rate is None and norm_constraint is not None:
        raise ValueError("a norm_constraint needs a learning_rate: the quadratic model finds the step by itself")

    def init(params: Params) -> KfacState:
        require_affine(model, params)
        velocity = {
            path: jnp.zeros_like(as_matrix(p, turns_around(model, path)))
            for path, p in leaves(model, params).items()
            if p
        }

        def zeros():  # anew each time: a step that donates its state must not be given the same array twice
            empty = {path: Factors(zeros_like(v, -2), zeros_like(v, -1)) for path, v in velocity.items()}
            return jnp.zeros((), jnp.int32), empty

        (count, factors), (seen, inverses) = zeros(), zeros()
        return KfacState(count, seen, factors, inverses, velocity)

    def update(
        gradient: Params,
        state: KfacState,
        params: Params | None = None,
        *,
        factors: PyTree = None,
        curvature: Callable[[list[Params]], Array] | None = None,
        **_: Any,
    ):
        if (curvature is None) != (learning_rate is not None):
            raise ValueError("update needs curvature=ggn_products(…) where there is no learning_rate, and only there")
        seen, means = state.seen, state.factors
        if factors is not None:
            new = {path: f for path, f in leaves(model, factors).items() if path in means}
            means = jax.tree.map(lambda old, f: decay * old + (1 - decay) * f.astype(old.dtype), means, new)
            seen = seen + 1
        if is_concrete(seen) and seen == 0:
            raise ValueError("K-FAC needs factors at its first step: update(..., factors=factors)")

        def renewed():
            share = 1 - decay**seen
            return {
                path: damped_inverse(jax.tree.map(lambda m: (m / share).astype(m.dtype), f), at(damping, state.count))
                for path, f in means.items()
            }

        def as_tree(matrices):
            return from_leaves(model, {p: from_matrix(matrices[p], g) if p in matrices else g for p, g in own.items()})

        inverses = lax.cond(state.count % inverse_every == 0, renewed, lambda: state.inverses)
        own = leaves(model, gradient)
        matrices = {path: as_matrix(own[path], f.inputs.ndim - 2) for path, f in inverses.items()}
        steps = {path: f.inputs @ matrices[path] @ f.outputs for path, f in inverses.items()}
        if learning_rate is None:
            both = steps, state.velocity
            bent = curvature([as_tree(direction) for direction in both])
            alpha, mu = best_step(matrices, both, bent, at(damping, state.count))
            velocity = jax.tree.map(lambda v, u: (mu * v + alpha * u).astype(v.dtype), state.velocity, steps)
            return as_tree(velocity), KfacState(state.count + 1, seen, means, inverses, velocity)
        rate = at(learning_rate, state.count)
        if norm_constraint is not None:
            length = rate**2 * inner(steps, matrices)
            shrink = jnp.sqrt(norm_constraint / jnp.maximum(length, norm_constraint))
            steps = jax.tree.map(lambda u: (shrink * u).astype(u.dtype), steps)
        velocity = jax.tree.map(lambda v, u: momentum * v + u, state.velocity, steps)
        updates = as_tree({path: (-rate * v).astype(v.dtype) for path, v in velocity.items()})
        return updates, KfacState(state.count + 1, seen, means, inverses, velocity)

    return optax.GradientTransformationExtraArgs(init, update)


def inner(a: dict[str, Array], b: dict[str, Array]) -> Float[Array, ""]:
    """⟨a, b⟩ over all layers."""
    return sum(jnp.vdot(x, b[path]) for path, x in a.items())


def best_step(
    gradient: dict[str, Array],
    directions: Sequence[dict[str, Array]],
    bent: Float[Array, "k k"],
    damping: float | Array,
) -> Float[Array, " k"]:
    """The c that minimise Σ_i c_i ⟨gradient, d_i⟩ + ½ Σ_ij c_i c_j (bent_ij + λ ⟨d_i, d_j⟩).

    A direction that is zero (v at the first step) gets no part; of parallel ones each gets its share.
    """
    slope = jnp.stack([inner(gradient, d) for d in directions])
    matrix = bent + damping * jnp.stack([jnp.stack([inner(a, b) for b in directions]) for a in directions])
    diagonal = jnp.diagonal(matrix)
    size = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    return -jnp.linalg.pinv(matrix / jnp.outer(size, size), rtol=1e-5, hermitian=True) @ (slope / size) / size


def zeros_like(matrix: Array, axis: int) -> Array:
    """Zeros of the shape of a factor that acts on this axis of a gradient matrix."""
    size = matrix.shape[axis]
    return jnp.zeros((*matrix.shape[:-2], size, size), accumulation_dtype(matrix))


def at(value: float | optax.Schedule, count: Array):
    """A number, or a schedule's number at this step."""
    return value(count) if callable(value) else value
