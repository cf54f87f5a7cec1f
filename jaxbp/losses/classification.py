"""Cross-entropies from logits z: the loss and the output's own nonlinearity in one, for they cancel.

Two classes, a = σ(z), y ∈ [0, 1]:

    l = -Σ y log a + (1 - y) log(1 - a) = Σ y log(1 + e^-z) + (1 - y) log(1 + e^z)

    ∂l/∂z = σ(z) - y = a - y                           ∂²l/∂z² = a (1 - a)

K classes, a = softmax(z), y a distribution over them:

    l = -Σ_k y_k log a_k = (Σ_k y_k) log Σ_j e^{z_j} - Σ_k y_k z_k

    ∂l/∂z_k = (Σ_j y_j) a_k - y_k = a_k - y_k          ∂²l/∂z_k∂z_j = δ_kj a_k - a_k a_j

The last is S Sᵀ with S_kj = δ_kj √a_k - a_k √a_j, since Σ_j (√a_j)² = 1.

This is the textbook's δ = a - y. It is no definition but the gradient of this loss through this nonlinearity: the f'(z)
that stays in the squared error's delta is cancelled by the logarithm. Label smoothing s trains on
y' = (1 - s) y + s / K. The residuals are a and y.

Sources: Bridle (1990); Szegedy et al., arXiv 1512.00567 (label smoothing).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbp.core.numerics import accumulation_dtype, is_concrete
from jaxbp.core.text import describe
from jaxbp.losses.example_loss import ExampleLoss, sum_outputs


@dataclass(frozen=True)
class BinaryCrossEntropy(ExampleLoss):
    """From logits; targets are shaped like the outputs, classes 0 and 1 or probabilities between."""

    def require_targets(self, outputs, targets):
        super().require_targets(outputs, targets)
        require_shares(self, targets)

    def per_example(self, outputs, targets):
        z, y = outputs.astype(accumulation_dtype(outputs)), targets.astype(accumulation_dtype(outputs))
        # log(1 + e^z) - y z is the same and shorter, but of a right and confident answer rounding leaves nothing.
        return sum_outputs(y * jax.nn.softplus(-z) + (1 - y) * jax.nn.softplus(z)), (jax.nn.sigmoid(z), y)

    def scaled_gradient(self, residuals, scale):
        a, y = residuals
        return scale * (a - y)

    def curvature(self, residuals):
        a, _ = residuals
        return a * (1 - a)

    def metrics(self, outputs, targets):
        hits = (outputs > 0) == (targets > 0.5)
        return {"accuracy": jnp.mean(hits, range(1, hits.ndim), dtype=accumulation_dtype(outputs))}


@dataclass(frozen=True)
class SoftmaxCrossEntropy(ExampleLoss):
    """From logits [n, ..., K]; targets are integer labels [n, ...] or distributions [n, ..., K] (one-hot, soft).

    Where an example has several labels (a sequence), each counts as one: the mean runs over labels.

    Args:
        smoothing: the share s of the target that goes to all classes alike, 0 ≤ s < 1.
        ignored_label: an integer label that does not count, such as padding's.
    """

    smoothing: float = 0.0
    ignored_label: int | None = None

    def __post_init__(self):
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"SoftmaxCrossEntropy needs 0 <= smoothing < 1, not {self.smoothing}")

    def require_targets(self, outputs, targets):
        classes = outputs.shape[-1]
        if not hasattr(targets, "shape"):
            raise TypeError(f"{self}: expected an array of labels or distributions, got {describe(targets)}")
        if targets.shape == outputs.shape:
            require_probabilities(self, targets)
            return
        if targets.shape != outputs.shape[:-1]:
            raise ValueError(
                f"{self}: for outputs {describe(outputs)} expected labels {list(outputs.shape[:-1])} "
                f"or distributions {list(outputs.shape)}, got targets {describe(targets)}"
            )
        if not jnp.issubdtype(targets.dtype, jnp.integer):
            raise TypeError(
                f"{self}: expected integer labels for outputs {describe(outputs)}, got {describe(targets)}; "
                "convert them, as in targets.astype(int)"
            )
        if is_concrete(targets):
            labels = np.asarray(targets)
            wrong = labels[((labels < 0) | (labels >= classes)) & (labels != self.ignored_label)]
            if wrong.size:
                raise ValueError(
                    f"{self}: label {wrong[0]} is out of range: outputs {describe(outputs)} have "
                    f"{classes} classes, 0 to {classes - 1}"
                )

    def per_example(self, outputs, targets):
        z, a, log_total = softmax(outputs)
        if is_label(outputs, targets):
            targets = targets.astype(jnp.int32)
            picked = jnp.take_along_axis(z, jnp.maximum(targets, 0)[..., None], -1, mode="fill")[..., 0]
            # Under jit a label out of range shows as a loss that is no number, rather than as a neighbour's loss.
            picked = jnp.where(self._ignored(targets), 0, jnp.where(targets < 0, jnp.nan, picked))
            losses = log_total - picked
        else:
            targets = targets.astype(z.dtype)
            losses = jnp.sum(targets, -1) * log_total - sum_of_products(targets, z)
        if self.smoothing:
            losses = (1 - self.smoothing) * losses + self.smoothing * (log_total - jnp.mean(z, -1))
        return losses, (a, targets)

    def scaled_gradient(self, residuals, scale):
        a, y = residuals
        if is_label(a, y):
            # Subtracting 1 at the label, in place of a whole one-hot array, is what XLA needs no memory for.
            at_label = (*jnp.indices(y.shape), y)
            g = scale * a + jnp.zeros_like(a).at[at_label].add(-(1 - self.smoothing) * scale[..., 0])
            return g - scale * self.smoothing / a.shape[-1] if self.smoothing else g
        smooth = (1 - self.smoothing) * y + self.smoothing / a.shape[-1] if self.smoothing else y
        return scale * (self._mass(residuals) * a - smooth)

    def scaled_hessian(self, residuals, scale, v):
        return scale * self._mass(residuals) * softmax_hessian(residuals[0], v)

    def scaled_root(self, residuals, root, v):
        return root * jnp.sqrt(self._mass(residuals)) * softmax_root(residuals[0], v)

    def _mass(self, residuals):
        """Σ_k y_k, 1 for labels."""
        a, y = residuals
        return 1.0 if is_label(a, y) else (1 - self.smoothing) * jnp.sum(y, -1, keepdims=True) + self.smoothing

    def counted(self, outputs, targets):
        if is_label(outputs, targets):
            return (~self._ignored(targets)).astype(accumulation_dtype(outputs))
        return jnp.ones(outputs.shape[:-1], accumulation_dtype(outputs))

    def metrics(self, outputs, targets):
        labels = targets if is_label(outputs, targets) else jnp.argmax(targets, -1)
        return {"accuracy": (jnp.argmax(outputs, -1) == labels).astype(accumulation_dtype(outputs))}

    def _ignored(self, labels):
        if self.ignored_label is None:
            return jnp.zeros(labels.shape, bool)
        return labels.astype(jnp.int32) == self.ignored_label  # of bytes none would be -1, or 255 would


def require_shares(loss, targets):
    """Refuses targets that are no classes 0 and 1, nor between them."""
    if is_concrete(targets):
        low, high = np.min(np.asarray(targets)), np.max(np.asarray(targets))
        if low < 0 or high > 1:
            raise ValueError(f"{loss}: expected targets between 0 and 1, got values from {low} to {high}")


def require_probabilities(loss, targets):
    """Refuses negative numbers; they need not add up to 1."""
    if is_concrete(targets) and not np.all(np.asarray(targets, float) >= 0):
        raise ValueError(f"{loss}: expected target probabilities, got negative numbers or NaN")


def is_label(outputs, targets) -> bool:
    """Whether targets are one integer each, rather than a distribution each."""
    return targets.ndim == outputs.ndim - 1


def softmax(outputs):
    """Logits z with the largest 0, so that e^z can't overflow; a = softmax(z); and log Σ_k e^z_k of each row."""
    z = outputs.astype(accumulation_dtype(outputs))
    z = z - lax.stop_gradient(jnp.max(z, -1, keepdims=True))
    exp_z = jnp.exp(z)
    total = jnp.sum(exp_z, -1, keepdims=True)
    return z, exp_z / total, jnp.log(total)[..., 0]


def sum_of_products(y, z):
    """Σ_k y_k z_k, where a class that is ruled out (z = -∞) and has no share in y adds nothing."""
    return jnp.sum(jnp.where(y == 0, 0, y * z), -1)


def softmax_hessian(a, v):
    """(diag a - a aᵀ) v."""
    return a * v - a * jnp.sum(a * v, -1, keepdims=True)


def softmax_root(a, v):
    """S v with S Sᵀ = diag a - a aᵀ."""
    v = jnp.sqrt(a) * v
    return v - a * jnp.sum(v, -1, keepdims=True)
