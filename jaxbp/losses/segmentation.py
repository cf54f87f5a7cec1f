"""Losses for masks, where what is sought is a small part of the picture. From logits z, with p = σ(z) and targets y.

Dice measures the overlap of an example's whole mask, of D = Σ p² + Σ y² + ε and the distances d = p - y:

    l = 1 - (2 Σ p y + ε) / D = Σ d² / D          ∂l/∂p = 2 (d - l p) / D          ∂p/∂z = p (1 - p)

l is a sum of squares, of the residuals ρ = d / √D, and its `hessian` is that of Gauss-Newton (the true one is
indefinite), 2 Jᵀ J with J = ∂ρ/∂z:

    ∂ρ_i/∂p_j = (δ_ij - d_i p_j / D) / √D         S v = √2 p (1 - p) (v - p (Σ d v) / D) / √D

Focal is the cross-entropy of each output, less where the answer is already right. Let t = ±1 for y = 1 and 0,
q = σ(-t z) the probability of the wrong class, u = -log(1 - q), γ the focus and α the weight of the class:

    l = Σ α q^γ u          ∂l/∂z = -t c          c = α q^γ (γ (1 - q) u + q)

u is convex in z, with u'' = q (1 - q), and l grows with u, ∂l/∂u = c / q; but l bends down in u where u is large. The
`hessian` is (∂l/∂u) u'' = c (1 - q) ≥ 0, the true one where γ = 0.

Residuals: p, d and D; t, c and 1 - q.

Sources: Milletari et al., V-Net, arXiv 1606.04797; Lin et al., arXiv 1708.02002 (focal loss).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core.numerics import accumulation_dtype, expand, is_concrete
from jaxbp.losses.classification import BinaryCrossEntropy, require_shares
from jaxbp.losses.example_loss import ExampleLoss, sum_outputs


@dataclass(frozen=True)
class Dice(ExampleLoss):
    """From logits; targets are shaped like the outputs, 0 and 1 or between, and all of an example are one mask.

    Args:
        epsilon: ε > 0, by which an empty mask that was found empty costs nothing.
    """

    epsilon: float = 1.0

    def __post_init__(self):
        if not self.epsilon > 0:
            raise ValueError(f"Dice needs a positive epsilon, not {self.epsilon}")

    def require_targets(self, outputs, targets):
        super().require_targets(outputs, targets)
        require_shares(self, targets)

    def per_example(self, outputs, targets):
        p, y = jax.nn.sigmoid(outputs.astype(accumulation_dtype(outputs))), targets.astype(accumulation_dtype(outputs))
        d, size = p - y, sum_outputs(p * p + y * y) + self.epsilon
        return sum_outputs(d * d) / size, (p, d, expand(size, p.ndim))

    def scaled_gradient(self, residuals, scale):
        p, d, size = residuals
        return scale * p * (1 - p) * 2 * (d - dot(d, d) / size * p) / size

    def scaled_hessian(self, residuals, scale, v):
        p, d, size = residuals
        u = p * (1 - p) * v
        return self.scaled_root(residuals, scale, jnp.sqrt(2 / size) * (u - d * dot(p, u) / size))

    def scaled_root(self, residuals, root, v):
        p, d, size = residuals
        return root * jnp.sqrt(2 / size) * p * (1 - p) * (v - p * dot(d, v) / size)


@dataclass(frozen=True)
class Focal(ExampleLoss):
    """From logits; targets are classes 0 and 1 shaped like the outputs, each of which is a question of its own.

    Args:
        focus: γ ≥ 0; 0 is the cross-entropy.
        balance: the weight of class 1, that of class 0 being 1 - balance; None: both 1.
    """

    focus: float = 2.0
    balance: float | None = None

    def __post_init__(self):
        if not self.focus >= 0 or not (self.balance is None or 0 <= self.balance <= 1):
            raise ValueError(f"{self}: expected focus >= 0 and a balance between 0 and 1, or None")

    def require_targets(self, outputs, targets):
        super().require_targets(outputs, targets)
        require_shares(self, targets)
        if is_concrete(targets) and not np.all(np.isin(np.asarray(targets, float), (0, 1))):
            raise ValueError(f"{self}: expected targets 0 and 1, got values between")

    def per_example(self, outputs, targets):
        z, t = outputs.astype(accumulation_dtype(outputs)), 2 * targets.astype(accumulation_dtype(outputs)) - 1
        p, q, u = jax.nn.sigmoid(t * z), jax.nn.sigmoid(-t * z), jax.nn.softplus(-t * z)
        factor = q**self.focus
        if self.balance is not None:
            factor = factor * jnp.where(t > 0, self.balance, 1 - self.balance)
        return sum_outputs(factor * u), (t, factor * (self.focus * p * u + q), p)

    def scaled_gradient(self, residuals, scale):
        t, c, _ = residuals
        return -scale * t * c

    def curvature(self, residuals):
        _, c, p = residuals
        return c * p

    def metrics(self, outputs, targets):
        return BinaryCrossEntropy().metrics(outputs, targets)


def dot(a, b):
    """Σ over all axes but the examples', kept to broadcast."""
    return jnp.sum(a * b, range(1, a.ndim), keepdims=True)
