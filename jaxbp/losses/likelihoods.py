"""Negative log-likelihoods of outputs that are a distribution's parameters; terms without outputs are left out.

Counts y, of rate e^z (Poisson's log-linear model):

    l = Σ e^z - y z (+ log y!)          ∂l/∂z = e^z - y          ∂²l/∂z² = e^z

Numbers y, normal of mean m and variance e^s, so that every s is a variance. With d = m - y:

    l = ½ Σ s + d² e^-s (+ log 2π)      ∂l/∂m = d e^-s           ∂l/∂s = ½ (1 - d² e^-s)

    ∂²l/∂m² = e^-s        ∂²l/∂m∂s = -d e^-s        ∂²l/∂s² = ½ d² e^-s

The determinant of the last three is -½ d² e^-2s: the Hessian is indefinite wherever d is not 0. In its place stands its
expectation under the model, the Fisher information, in which E[d] = 0 and E[d²] = e^s:

    ∂²l/∂m² → e^-s        ∂²l/∂m∂s → 0              ∂²l/∂s² → ½

Residuals: e^z and y; d and e^-s.

Sources: Nelder & Wedderburn, "Generalized linear models", J. Royal Statistical Society A 135 (1972); Nix & Weigend,
"Estimating the mean and variance of the target probability distribution", ICNN 1994.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jaxbp.core.numerics import accumulation_dtype, is_concrete
from jaxbp.losses.example_loss import ExampleLoss, sum_outputs
from jaxbp.losses.regression import difference


@dataclass(frozen=True)
class Poisson(ExampleLoss):
    """From the logarithms of rates; targets are counts, 0 or more, shaped like the outputs."""

    def require_targets(self, outputs, targets):
        super().require_targets(outputs, targets)
        if is_concrete(targets) and np.min(np.asarray(targets)) < 0:
            raise ValueError(f"{self}: expected counts, 0 or more, got {np.min(np.asarray(targets))}")

    def per_example(self, outputs, targets):
        z, y = outputs.astype(accumulation_dtype(outputs)), targets.astype(accumulation_dtype(outputs))
        rate = jnp.exp(z)
        return sum_outputs(rate - y * z), (rate, y)

    def scaled_gradient(self, residuals, scale):
        rate, y = residuals
        return scale * (rate - y)

    def curvature(self, residuals):
        rate, _ = residuals
        return rate


@dataclass(frozen=True)
class GaussianNLL(ExampleLoss):
    """From a pair (mean, log_variance), both shaped like the targets. Its `hessian` is the Fisher information."""

    takes = ("mean", "log_variance")

    def require_targets(self, outputs, targets):
        super().require_targets(outputs[0], targets)

    def per_example(self, outputs, targets):
        mean, log_variance = outputs
        d, s = difference(mean, targets), log_variance.astype(accumulation_dtype(log_variance))
        precision = jnp.exp(-s)
        return sum_outputs(s + d * d * precision) / 2, (d, precision)

    def scaled_gradient(self, residuals, scale):
        d, precision = residuals
        return scale * d * precision, scale * (1 - d * d * precision) / 2

    def curvature(self, residuals):
        _, precision = residuals
        return precision, jnp.full_like(precision, 0.5)
