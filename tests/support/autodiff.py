"""A whole model against autodiff, in one compiled program."""

import jax
import numpy as np

import jaxbp
from jaxbp.interop import true_vjp
from tests.support.arrays import normal


def agrees_with_autodiff(model, x, g, rng=None):
    """Compares the sweep with jax.vjp in float64, under random parameters; all of them, biases and scales too."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: p + 0.3 * normal(*p.shape, dtype=float), model.init(jax.random.key(0), x))
        x, g = jax.tree.map(lambda a: a.astype(float) if a.dtype == np.float32 else a, (x, g))

        @jax.jit
        def run(params, x, g):
            _, residuals = model.forward(params, x, rng)
            dx, dparams = jaxbp.sweep(model, params, residuals, g)
            return (dparams, dx), true_vjp(model, params, x, rng)(g)

        ours, true = run(params, x, g)
        assert jax.tree.structure(ours) == jax.tree.structure(true)
        for a, b in zip(*map(jax.tree.leaves, (ours, true)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
