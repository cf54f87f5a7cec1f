"""A new learning rule: backprop along wires of which some are broken.

    δ goes back through B = W ⊙ M,   M[i,o] = 1 where the wire back is whole, 0 where it is broken, drawn once

All of them broken, the layers below learn nothing; none broken, it is backprop. How many may be?
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp import WeightRule


@dataclass(frozen=True)
class BrokenWires(WeightRule):
    """B = W on whole wires and 0 on broken ones.

    Args:
        share: how many of them are broken, from 0 to 1.
    """

    share: float = 0.5

    def init(self, key, weight):
        return jax.random.bernoulli(key, 1 - self.share, weight.shape)

    def backward_weight(self, weight, kept, key):
        return jnp.where(kept, weight, 0)
