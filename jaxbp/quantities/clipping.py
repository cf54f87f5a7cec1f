"""Clipped gradients, for private training: no example pulls harder than the limit C.

    ḡ = 1/N Σ_n c_n G_n,   c_n = min(1, C / ‖G_n‖)          and for privacy + σ C ξ / N,  ξ ~ N(0, 1)

G_n is linear in the deltas that example n left behind, so c_n G_n is what deltas times c_n give. One forward pass and
one sweep, which keeps the deltas and takes ghost norms; then the parameter gradients of the re-weighted deltas, once.

Sources: Abadi et al., Deep Learning with Differential Privacy, arXiv 1607.00133; Li et al., arXiv 2110.05679 (ghost
clipping); He et al., arXiv 2212.01539 (a limit for each layer).
"""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxbp.backprop import Targets, run
from jaxbp.core.layer import Layer, Params
from jaxbp.core.numerics import expand, is_floating
from jaxbp.core.paths import from_leaves, leaves, require_paths
from jaxbp.core.sweep import keep, revisit
from jaxbp.losses.base import Loss, Weights
from jaxbp.quantities.ghost_norms import squared_norm
from jaxbp.quantities.per_example import over_turns, require_independent

Limit = float | Mapping[str, float]


def clipped_value_and_grad(
    model: Layer, loss: Loss, limit: Limit, noise: float = 0.0, expected: float | None = None
) -> Callable[..., tuple[Array, Params, Array]]:
    """The loss and its gradient with each example's part clipped and, if wanted, noise on the sum.

    Args:
        model: any layer that doesn't mix examples.
        loss: any loss that doesn't mix examples. G_n is the gradient of w_n l_n, whatever else is in the batch.
        limit: C for the whole gradient of an example; or a limit for each layer that has parameters, by path (all turns
            of a `Repeat` together).
        noise: σ, the noise multiplier that accountants speak of: the noise has the deviation σ C before it is divided
            by N, for limits by layer σ (Σ C²)^½.
        expected: the number of examples to divide by, N unless given: the expected one, where examples are drawn at
            random (Poisson sampling) and the batch is filled up with examples of weight 0.

    Returns:
        A function (params, x, targets, rng=None, weights=None, noise_key=None) -> (loss, gradient, norms), the last
        one ‖G_n‖ before clipping, [n] (by path, where limits are by path). The loss is the plain mean, without noise.
    """
    require_independent(model, loss)
    by_layer = isinstance(limit, Mapping)
    limits = dict(limit) if by_layer else {"": limit}
    require_paths(model, limits)
    if noise < 0 or any(not c > 0 for c in limits.values()):
        raise ValueError(f"expected positive limits and noise >= 0, got limit={limit}, noise={noise}")

    def value_gradient_and_norms(
        params: Params,
        x: PyTree,
        targets: Targets,
        rng: PRNGKeyArray | None = None,
        weights: Weights | None = None,
        noise_key: PRNGKeyArray | None = None,
    ) -> tuple[Array, Params, PyTree]:
        if noise and noise_key is None:
            raise ValueError("noise needs a fresh noise_key at every step, a jax.random.key")
        # Divided by 1, not by the sum of weights: an example's gradient must not depend on the others.
        forward = run(model, loss, params, x, targets, rng, weights, total=jnp.ones(()))
        _, seen = forward.sweep(lambda site: (keep(site), squared_norm(site)))
        seen = leaves(model, seen)
        squares = {path: s for path, (_, s) in seen.items() if not isinstance(s, tuple)}
        found = {path: over_turns(s, 1) for path, s in squares.items()}
        if by_layer:
            require_same(set(limits), set(found))
            norms = {path: jnp.sqrt(s) for path, s in found.items()}
            factors = {path: shrink(norms[path], limits[path]) for path in found}
        else:
            norms = jnp.sqrt(sum(found.values()))
            factors = dict.fromkeys(found, shrink(norms, limit))
        clipped = {
            path: (r, scaled(g, factors[path], squares[path].ndim) if path in factors else g)
            for path, ((r, g), _) in seen.items()
        }
        gradient = revisit(model, params, from_leaves(model, clipped))
        if noise:
            gradient = add_noise(gradient, noise * sum(c * c for c in limits.values()) ** 0.5, noise_key)
        n = jax.tree.leaves(x)[0].shape[0] if expected is None else expected
        value, _ = loss.forward(forward.outputs, forward.targets, weights)
        return value, jax.tree.map(lambda a: (a / n).astype(a.dtype), gradient), norms

    return value_gradient_and_norms


def shrink(norm: Float[Array, " n"], limit: float) -> Float[Array, " n"]:
    """min(1, C / ‖G_n‖), also where the norm is zero."""
    return limit / jnp.maximum(norm, limit)


def scaled(g: PyTree, factor: Float[Array, " n"], rank: int) -> PyTree:
    """Deltas [*turns, n, ...] times one number an example; rank counts turns and n."""

    def one(g):
        if not is_floating(g):
            return g
        f = jax.lax.broadcast_in_dim(factor, g.shape[:rank], (rank - 1,))
        return (g * expand(f, g.ndim)).astype(g.dtype)

    return jax.tree.map(one, g)


def add_noise(gradient: Params, deviation: float, key: PRNGKeyArray) -> Params:
    """The gradient plus independent normal noise."""
    arrays, structure = jax.tree.flatten(gradient)
    keys = jax.random.split(key, len(arrays))
    return structure.unflatten(
        [(a + deviation * jax.random.normal(k, a.shape)).astype(a.dtype) for a, k in zip(arrays, keys, strict=True)]
    )


def require_same(given: set[str], needed: set[str]) -> None:
    """Refuses limits that leave out a layer, or name one without parameters."""
    if given != needed:
        say = partial(sorted, key=str)
        raise ValueError(f"limits are needed for the layers with parameters, {say(needed)}, got them for {say(given)}")
