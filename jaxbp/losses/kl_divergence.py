"""The Kullback-Leibler divergence of a target distribution p from a = softmax(z), over K classes.

    l = Σ_k p_k log(p_k / a_k) = Σ_k p_k log p_k - Σ_k p_k z_k + (Σ_k p_k) log Σ_j e^{z_j}

Only the first term is not the cross-entropy's, and it is constant:

    ∂l/∂z_k = (Σ_j p_j) a_k - p_k          ∂²l/∂z_k∂z_j = (Σ_i p_i) (δ_kj a_k - a_k a_j)

So it teaches what `SoftmaxCrossEntropy` on soft targets does, but its value is 0 where the model is right. Residuals: a
and p.

Source: Kullback & Leibler, Annals of Mathematical Statistics 22 (1951); Hinton et al., arXiv 1503.02531 (distillation).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core.numerics import accumulation_dtype
from jaxbp.core.text import describe
from jaxbp.losses.classification import SoftmaxCrossEntropy, require_probabilities, softmax, sum_of_products
from jaxbp.losses.example_loss import ExampleLoss

CROSS_ENTROPY = SoftmaxCrossEntropy()


@dataclass(frozen=True)
class KLDivergence(ExampleLoss):
    """From logits [n, ..., K]; targets are distributions [n, ..., K], each of which counts as one.

    Log-probabilities are logits too: the softmax leaves them as they are.
    """

    def require_targets(self, outputs, targets):
        if not hasattr(targets, "shape") or targets.shape != outputs.shape:
            raise ValueError(
                f"{self}: expected distributions shaped like the outputs {describe(outputs)}, got {describe(targets)}; "
                "of labels the cross-entropy is the divergence: use SoftmaxCrossEntropy"
            )
        require_probabilities(self, targets)

    def per_example(self, outputs, targets):
        z, a, log_total = softmax(outputs)
        p = targets.astype(z.dtype)
        entropy = -jnp.sum(jax.scipy.special.xlogy(p, p), -1)
        return jnp.sum(p, -1) * log_total - sum_of_products(p, z) - entropy, (a, p)

    def scaled_gradient(self, residuals, scale):
        return CROSS_ENTROPY.scaled_gradient(residuals, scale)

    def scaled_hessian(self, residuals, scale, v):
        return CROSS_ENTROPY.scaled_hessian(residuals, scale, v)

    def scaled_root(self, residuals, root, v):
        return CROSS_ENTROPY.scaled_root(residuals, root, v)

    def counted(self, outputs, targets):
        return jnp.ones(outputs.shape[:-1], accumulation_dtype(outputs))
