"""Products with the Hessian and the Gauss-Newton matrix, and the latter's diagonal; no matrix is formed.

    H v    = d/dε ∇J(θ + ε v)        one jvp through our own gradient: forward over hand-written reverse
    GGN v  = J_fᵀ (∂²J/∂y²) J_f v    a jvp of the forward pass, the loss's Hessian, one reverse sweep
    diag   = Σ_{n,c} (J_f[n]ᵀ s_c)²  with S's columns s_c (see `fisher.py`): squared like per-example gradients

An operator is a function of a tree v like the parameters, to be given to what others have written well:

    jax.scipy.sparse.linalg.cg(operator, gradient)                      solves, as does lineax.CG (add a damping first)
    scipy.sparse.linalg.eigsh(as_scipy(operator, params), k=10)         Lanczos: the largest eigenvalues

and over flat vectors, product = as_flat(operator, params), with pip install "jaxbp[curvature]":

    linear = lineax.FunctionLinearOperator(product, shape, lineax.positive_semidefinite_tag)
    traceax.HutchPlusPlusEstimator(NormalSampler())(key, linear, 60)    the trace; HutchinsonEstimator for flat spectra
    matfree.eig.eigh_partial(matfree.decomp.tridiag_sym(30))(product, v)    Lanczos: the spectrum's ends, under jit

The GGN's residuals and the loss's are computed once, when the operator is made. Of a jvp, the part that doesn't depend
on v is computed once for all v that come together, under `jax.vmap` (SciPy's matmat), but anew for each call.

Sources: Pearlmutter, Neural Computation 6 (1994); Schraudolph, Neural Computation 14 (2002).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxbp.backprop import Run, Targets, run, value_and_grad
from jaxbp.core.layer import Layer, Params
from jaxbp.core.numerics import is_floating
from jaxbp.core.sweep import param_gradient
from jaxbp.curvature.fisher import Fisher, sum_over_columns
from jaxbp.losses.base import Loss
from jaxbp.quantities.gradient_statistics import sum_of_squares
from jaxbp.quantities.per_example import require_independent

Operator = Callable[[Params], Params]


def hessian_operator(
    model: Layer,
    loss: Loss,
    params: Params,
    x: PyTree,
    targets: Targets,
    rng: PRNGKeyArray | None = None,
    weights: PyTree = None,
) -> Operator:
    """v ↦ (∂²J/∂θ²) v at these parameters; v and the result are trees like params."""

    def gradient(params):
        return value_and_grad(model, loss)(params, x, targets, rng, weights)[1]

    return lambda v: jax.jvp(gradient, (params,), (like(v, params),))[1]


def ggn_operator(
    model: Layer,
    loss: Loss,
    params: Params,
    x: PyTree,
    targets: Targets,
    rng: PRNGKeyArray | None = None,
    weights: PyTree = None,
) -> Operator:
    """v ↦ J_fᵀ (∂²J/∂y²) J_f v at these parameters: symmetric, without negative eigenvalues if weights are none."""
    forward = run(model, loss, params, x, targets, rng, weights)

    def product(v):
        moved = moved_outputs(forward, rng, v)
        return forward.sweep(param_gradient, loss.hessian(forward.kept, moved))[1]

    return product


def ggn_products(
    model: Layer,
    loss: Loss,
    params: Params,
    x: PyTree,
    targets: Targets,
    rng: PRNGKeyArray | None = None,
    weights: PyTree = None,
) -> Callable[[Sequence[Params]], Float[Array, "k k"]]:
    """(v_1, …, v_k) ↦ ⟨v_i, GGN v_j⟩: a jvp for each v and no backward pass, cheaper than products with the GGN."""
    forward = run(model, loss, params, x, targets, rng, weights)

    def products(vectors):
        moved = [moved_outputs(forward, rng, v) for v in vectors]
        bent = [loss.hessian(forward.kept, m) for m in moved]
        return jnp.stack([jnp.stack([inner_product(m, b) for b in bent]) for m in moved])

    return products


def ggn_diagonal(model: Layer, loss: Loss, fisher: Fisher) -> Callable[..., Params]:
    """The diagonal of the GGN, or with Empirical() of the empirical Fisher.

    Args:
        model: any layer that doesn't mix examples.
        loss: a loss that gives its curvature, and doesn't mix examples either.
        fisher: Exact() (a sweep for each output), MonteCarlo(samples) or Empirical().

    Returns:
        A function (params, x, targets, rng=None, weights=None, key=None) -> a tree like params.
    """
    require_independent(model, loss)

    def diagonal(params, x, targets, rng=None, weights=None, key=None):
        forward = run(model, loss, params, x, targets, rng, weights)
        columns = fisher.columns(loss, forward.kept, forward.outputs, key)
        return sum_over_columns(forward, columns, sum_of_squares)

    return diagonal


def moved_outputs(forward: Run, rng: PRNGKeyArray | None, v: Params) -> PyTree:
    """J_f v: how the outputs move where the parameters move along v."""

    def outputs(params):
        return forward.model.forward(params, forward.x, rng)[0]

    return jax.jvp(outputs, (forward.params,), (like(v, forward.params),))[1]


def inner_product(a: PyTree, b: PyTree) -> Array:
    """Σ a b over all arrays of two trees."""
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))


def as_flat(operator: Operator, params: Params) -> Callable[[Array], Array]:
    """The operator over flat vectors, in the order of jax.flatten_util.ravel_pytree."""
    _, unflatten = ravel_pytree(params)
    return lambda v: ravel_pytree(operator(unflatten(v)))[0]


def as_scipy(operator: Operator, params: Params) -> scipy.sparse.linalg.LinearOperator:
    """The symmetric operator over flat vectors, compiled, for SciPy."""
    flat, _ = ravel_pytree(params)
    product = as_flat(operator, params)
    one, many = jax.jit(product), jax.jit(jax.vmap(product, 1, 1))

    def vector(v):
        return np.asarray(one(jnp.asarray(v, flat.dtype).reshape(-1)))

    def matrix(v):
        return np.asarray(many(jnp.asarray(v, flat.dtype)))

    return scipy.sparse.linalg.LinearOperator(
        (flat.size, flat.size), matvec=vector, rmatvec=vector, matmat=matrix, dtype=flat.dtype
    )


def like(v: PyTree, params: Params) -> Params:
    """v in the dtypes of the parameters, or a clear word that it is no such tree."""
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (v, params)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"expected a vector shaped like the parameters, {shapes[1]}, got {shapes[0]}")
    return jax.tree.map(lambda v, p: jnp.asarray(v, p.dtype) if is_floating(p) else v, v, params)
