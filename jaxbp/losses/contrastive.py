"""InfoNCE: among the positives of a whole batch, each anchor is to find its own.

Let i and j run over the n examples, with anchors a_i and positives p_j, unit vectors e and f along them, and the
temperature τ. It is the softmax cross-entropy of n classes, class i for example i:

    s_ij = e_i·f_j / τ          b_ij = softmax_j(s_ij)          l_i = log Σ_j e^{s_ij} - s_ii

    G_ij = ∂J/∂s_ij = r_i (b_ij - δ_ij)

    ∂J/∂e_i = Σ_j G_ij f_j / τ          ∂J/∂f_j = Σ_i G_ij e_i / τ          ∂e/∂a = (1 - e eᵀ) / ‖a‖

The positive of one example is a negative of all others: the loss mixes examples, and ∂J/∂p_j has a term of each l_i.
J is convex in s, and the `hessian` is that of Gauss-Newton, Jᵀ H_s J with J = ∂s/∂(a, p) and H_s a block
r_i (diag b_i - b_i b_iᵀ) for each anchor. S v = Jᵀ S_s v takes v [n, n], a row for each anchor.

An example of weight zero is not there: its positive is no negative of the others either. Residuals: e, 1 / ‖a‖, f,
1 / ‖p‖ and b.

Sources: van den Oord et al., arXiv 1807.03748; Chen et al., SimCLR, arXiv 2002.05709 (cosines and temperature).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core.numerics import accumulation_dtype, contract
from jaxbp.core.text import describe
from jaxbp.losses.classification import softmax, softmax_hessian, softmax_root
from jaxbp.losses.example_loss import ExampleLoss, fill, require_no_targets
from jaxbp.losses.metric_learning import along, directions


@dataclass(frozen=True)
class InfoNCE(ExampleLoss):
    """From embeddings (anchors, positives) [n, d]; there are no targets: ().

    Args:
        temperature: τ > 0, by which cosines are divided.
    """

    temperature: float = 0.1
    takes = ("anchors", "positives")
    mixes_examples = True

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"InfoNCE needs a positive temperature, not {self.temperature}")

    def require_targets(self, outputs, targets):
        require_no_targets(self, targets)
        if len(outputs[0].shape) != 2:
            raise ValueError(f"{self}: expected embeddings [n, d], got {describe(outputs)}")

    def per_example(self, outputs, targets):
        return self.per_counted_example(outputs, targets, jnp.ones(len(outputs[0]), bool))

    def per_counted_example(self, outputs, targets, counts):
        (e, length), (f, other) = map(directions, fill(~counts, outputs, 0))
        s = contract("id,jd->ij", e, f, dtype=e.dtype) / self.temperature
        s = jnp.where(counts[None] | jnp.eye(len(e), dtype=bool), s, -jnp.inf)
        s, b, log_total = softmax(s)
        return log_total - jnp.diagonal(s), (e, length, f, other, b)

    def scaled_gradient(self, residuals, scale):
        b = residuals[-1]
        return self._pull(residuals, scale * (b - jnp.eye(len(b), dtype=b.dtype)))

    def scaled_hessian(self, residuals, scale, v):
        return self._pull(residuals, scale * softmax_hessian(residuals[-1], self._push(residuals, v)))

    def scaled_root(self, residuals, root, v):
        return self._pull(residuals, root * softmax_root(residuals[-1], v))

    def root_input(self, outputs):
        n = outputs[0].shape[0]
        return jax.ShapeDtypeStruct((n, n), accumulation_dtype(outputs[0]))

    def _push(self, residuals, v):
        """J v [n, n]."""
        e, length, f, other, b = residuals
        e_, f_ = along(e, length, v[0]), along(f, other, v[1])
        both = contract("id,jd->ij", e_, f, dtype=b.dtype) + contract("id,jd->ij", e, f_, dtype=b.dtype)
        return both / self.temperature

    def _pull(self, residuals, g):
        """Jᵀ g, for anchors and for positives."""
        e, length, f, other, b = residuals
        e_, f_ = contract("ij,jd->id", g, f, dtype=b.dtype), contract("ij,id->jd", g, e, dtype=b.dtype)
        return along(e, length, e_ / self.temperature), along(f, other, f_ / self.temperature)
