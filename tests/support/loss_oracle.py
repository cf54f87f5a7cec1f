"""Losses beside those of a textbook, differentiated by JAX."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxbp.core.numerics import expand, is_floating

TOLERANCES = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 2e-2}


def assert_gradient_is_that_of_jax_grad(loss, outputs, targets, weights=None):
    """In every precision, the truth being jax.grad in float64 of the same rounded numbers."""
    case = Case(loss, outputs, targets, lambda *arguments: loss.forward(*arguments)[0])
    for dtype in TOLERANCES:
        assert_value_and_gradient(case, dtype, weights)


@dataclass(frozen=True)
class Case:
    """A loss, what it is tried on, and what it says in a textbook's words.

    value: (outputs, targets, weights) -> J.
    stands_for: (outputs, targets, weights, at) -> a number whose Hessian in the outputs, where they are `at`, is what
        `hessian` is to be; None: that of J itself.
    """

    loss: Any
    outputs: Any
    targets: Any
    value: Callable
    stands_for: Callable | None = None

    def __str__(self):
        return str(self.loss)


def mean(losses):
    """J of losses (outputs, targets, ...) -> [n] or [n, ...], the weighted mean; None are weights of 1."""

    def value(outputs, targets, weights, *more):
        found = losses(outputs, targets, *more)
        weights = jnp.ones(len(found)) if weights is None else jnp.asarray(weights)
        weights = jnp.broadcast_to(expand(weights, found.ndim), found.shape)
        return jnp.sum(jnp.where(weights == 0, 0, weights * found)) / jnp.sum(weights)

    return value


def cast(tree, dtype):
    """The floating-point arrays of a tree in another dtype."""
    return jax.tree.map(lambda a: jnp.asarray(a, dtype) if is_floating(a) else jnp.asarray(a), tree)


def relative_error(a, b):
    """‖a - b‖ / ‖b‖ over all arrays of two trees; where b is nearly zero, the absolute error."""
    a, b = (np.concatenate([np.asarray(x, float).ravel() for x in jax.tree.leaves(tree)]) for tree in (a, b))
    return np.linalg.norm(a - b) / (np.linalg.norm(b) if np.linalg.norm(b) > 1e-12 else 1)


def assert_value_and_gradient(case, dtype, weights=None):
    """Ours in `dtype`, against the textbook's in float64 of the same rounded numbers."""

    @jax.jit
    def both(outputs):
        targets = cast(case.targets, "float64")
        value, residuals = case.loss.forward(outputs, targets, weights)
        true = jax.value_and_grad(case.value)(cast(outputs, "float64"), targets, weights)
        return (value, case.loss.backward(residuals)), true

    with jax.enable_x64(True):
        (value, gradient), true = both(cast(case.outputs, dtype))
        true_value, true_gradient = jax.tree.map(np.asarray, true)
    assert jax.tree.structure(gradient) == jax.tree.structure(true_gradient)
    assert {g.dtype for g in jax.tree.leaves(gradient)} == {jnp.dtype(dtype)}
    assert value.dtype == ("float64" if dtype == "float64" else "float32")
    np.testing.assert_allclose(value, true_value, rtol=TOLERANCES[dtype])
    assert relative_error(gradient, true_gradient) <= TOLERANCES[dtype], f"{case} in {dtype}"


def dense(function, like):
    """The matrix of a linear function of trees like `like`, in the order of ravel_pytree."""
    flat, unflatten = ravel_pytree(jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like))
    return jax.vmap(lambda v: ravel_pytree(function(unflatten(v)))[0], out_axes=1)(jnp.eye(flat.size))


def assert_curvature(case, weights=None, tolerance=1e-9):
    """`hessian` as a matrix is that of autodiff twice through the textbook's words, and S Sᵀ is `hessian`."""

    @jax.jit
    def matrices(outputs):
        targets = cast(case.targets, "float64")
        _, residuals = case.loss.forward(outputs, targets, weights)
        flat, unflatten = ravel_pytree(outputs)

        def value(flat):
            at = () if case.stands_for is None else (outputs,)
            return (case.stands_for or case.value)(unflatten(flat), targets, weights, *at)

        ours = dense(lambda v: case.loss.hessian(residuals, v), outputs)
        root = dense(lambda v: case.loss.hessian_root(residuals, v), case.loss.root_input(outputs))
        return ours, root @ root.T, jax.hessian(value)(flat)

    with jax.enable_x64(True):
        ours, squared, true = map(np.asarray, matrices(cast(case.outputs, "float64")))
    assert relative_error(ours, true) <= tolerance, f"{case}: the Hessian"
    assert relative_error(squared, ours) <= tolerance, f"{case}: the root"
