"""What the weighted sum of a loss is divided by.

    J = Σ_n w_n l_n / W        W = Σ w        the number of examples or labels that count        1

The first is the mean that weights make, and asks for weights of one sign: where they cancel (the advantages of a policy
gradient, which are centred), the sum is divided by rounding errors. The other two take weights as they are.
"""

from enum import Enum

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxbp.core.numerics import is_concrete

CANCELLED = 1e-5  # of Σ |w|: a sum of weights below this is no sum to divide by


class Reduction(Enum):
    """MEAN_OVER_WEIGHTS: Σ w l / Σ w. MEAN_OVER_EXAMPLES: Σ w l over the number of what counts. SUM: Σ w l.

    What counts is each example, or each label where an example has several, whatever its weight, but not an ignored
    label.
    """

    MEAN_OVER_WEIGHTS = "Σ w l / Σ w"
    MEAN_OVER_EXAMPLES = "Σ w l / N"
    SUM = "Σ w l"

    def terms(self, weights: Array, counted: Array) -> Array:
        """What adds up to W."""
        if self is Reduction.SUM:
            return jnp.ones((), weights.dtype)
        return weights if self is Reduction.MEAN_OVER_WEIGHTS else counted


def total_of(loss: object, terms: Array) -> Float[Array, ""]:
    """W, refused or (under jit) not a number where it is no positive sum; 0 under jit where there is nothing to add."""
    total, size = jnp.sum(terms), jnp.sum(jnp.abs(terms))
    if is_concrete(total):
        if np.asarray(size) == 0:
            raise ValueError(f"{loss}: no example counts: the weights add up to {total}")
        if not np.asarray(total) > CANCELLED * np.asarray(size):
            raise ValueError(
                f"{loss}: the weights add up to {total}, by which their mean can't be divided; for weights of both "
                "signs give the loss reduction=Reduction.MEAN_OVER_EXAMPLES or reduction=Reduction.SUM"
            )
    return jnp.where((total > CANCELLED * size) | (size == 0), total, jnp.nan)
