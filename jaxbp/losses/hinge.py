"""The hinge loss: right by a margin, or a cost that grows with the distance. With y = ±1 and the margin m:

    l = Σ max(0, m - y z)          ∂l/∂z = -y, beyond the margin 0          ∂²l/∂z² = 0

The residual is ∂l/∂z.

Source: Cortes & Vapnik, "Support-vector networks", Machine Learning 20 (1995), its soft margin.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jaxbp.core.numerics import accumulation_dtype, is_concrete
from jaxbp.losses.example_loss import ExampleLoss, sum_outputs


def require_signs(loss, targets):
    """Refuses targets other than -1 and 1, such as 0."""
    if is_concrete(targets):
        wrong = np.asarray(targets, float)[np.abs(np.asarray(targets, float)) != 1]
        if wrong.size:
            raise ValueError(f"{loss}: expected targets -1 and 1, got {wrong[0]:g}; of y = 0 and 1 make 2 y - 1")


@dataclass(frozen=True)
class Hinge(ExampleLoss):
    """From scores of two classes, -1 and 1; targets are these, shaped like the outputs.

    Several classes are scored one against the rest, with 1 at the class and -1 elsewhere. The loss is piecewise linear,
    so its Hessian is zero and Gauss-Newton sees nothing of it; `Empirical` does.

    Args:
        margin: m > 0.
    """

    margin: float = 1.0

    def __post_init__(self):
        if not self.margin > 0:
            raise ValueError(f"Hinge needs a positive margin, not {self.margin}")

    def require_targets(self, outputs, targets):
        super().require_targets(outputs, targets)
        require_signs(self, targets)

    def per_example(self, outputs, targets):
        z, y = outputs.astype(accumulation_dtype(outputs)), targets.astype(accumulation_dtype(outputs))
        short = self.margin - y * z
        return sum_outputs(jnp.maximum(short, 0)), jnp.where(short > 0, -y, 0)

    def scaled_gradient(self, slope, scale):
        return scale * slope

    def curvature(self, slope):
        return jnp.zeros_like(slope)

    def metrics(self, outputs, targets):
        return {
            "accuracy": jnp.mean(
                (outputs > 0) == (targets > 0), range(1, outputs.ndim), dtype=accumulation_dtype(outputs)
            )
        }
