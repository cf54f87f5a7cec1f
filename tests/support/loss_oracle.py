"""The gradient of a loss beside that of jax.grad."""

import jax
import jax.numpy as jnp
import numpy as np

TOLERANCES = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 2e-2}


def assert_gradient_is_that_of_jax_grad(loss, outputs, targets, weights=None):
    """In every precision, the truth being jax.grad in float64 of the same rounded numbers."""
    for dtype, tolerance in TOLERANCES.items():
        with jax.enable_x64(True):
            outputs = jnp.asarray(outputs, dtype)
            value, residuals = loss.forward(outputs, targets, weights)
            gradient = loss.backward(residuals)
            true_value, true = jax.value_and_grad(lambda z: loss.forward(z, targets, weights)[0])(
                outputs.astype("float64")
            )
            true_value, true = np.asarray(true_value), np.asarray(true)
        assert gradient.dtype == outputs.dtype
        np.testing.assert_allclose(value, true_value, rtol=tolerance)
        error = np.linalg.norm(np.asarray(gradient, float) - true) / np.linalg.norm(true)
        assert error <= tolerance, f"{loss} in {dtype}: {error}"
