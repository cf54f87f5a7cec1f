"""A network and its loss against autodiff: the gradient of the whole, and the norm of each example's own."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxbp
from tests.support.arrays import normal

NORMS = {"norms": jaxbp.per_example_norms}


def in_float64(tree):
    """The floating-point arrays of a tree in float64."""
    return jax.tree.map(lambda a: jnp.asarray(a, float) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def drawn(model, x):
    """Parameters in float64, biases and scales moved away from 0 and 1."""
    params = jax.jit(model.init)(jax.random.key(0), x)
    return jax.tree.map(lambda p: p + 0.1 * normal(*p.shape, dtype=float), in_float64(params))


def same(ours, theirs, tolerance):
    """Compares trees, each array against the largest entry of its own."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max(initial=0))


def gradient_is_that_of_jax(model, loss, x, targets, rng=None, penalties=None, cost=lambda params, x: 0):
    """The gradient to 1e-10; `cost` says of the penalties what the textbook does."""
    with jax.enable_x64(True):
        x, targets = in_float64((x, targets))
        params = drawn(model, x)

        def value(params):
            return loss.forward(model.forward(params, x, rng)[0], targets)[0] + cost(params, x)

        def both(params):
            ours = jaxbp.value_and_grad(model, loss, penalties=penalties)(params, x, targets, rng)
            return ours, jax.value_and_grad(value)(params)

        same(*jax.jit(both)(params), 1e-10)


def norms_are_those_of_jax(model, loss, x, targets, penalties=None, cost=lambda params, x: 0):
    """Per-example norms to 1e-9."""
    with jax.enable_x64(True):
        x, targets = in_float64((x, targets))
        params = drawn(model, x)

        def of_one(params, x, target):
            x, target = jax.tree.map(lambda a: a[None], (x, target))
            return loss.forward(model.forward(params, x)[0], target)[0] + cost(params, x)

        def both(params):
            ours = jaxbp.value_and_quantities(model, loss, NORMS, penalties=penalties)(params, x, targets)[1]
            gradients = jax.vmap(jax.grad(of_one), (None, 0, 0))(params, x, targets)
            squares = sum(jnp.sum(g**2, range(1, g.ndim)) for g in jax.tree.leaves(gradients))
            return ours["norms"], jnp.sqrt(squares)

        same(*jax.jit(both)(params), 1e-9)
