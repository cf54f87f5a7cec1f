"""A new learning rule: backprop with some of the wires cut that carry the error.

    δ goes backward through B = W ⊙ M in place of W,   M[i,o] = 0 where the wire is cut, else 1; drawn once

With no wire cut it is backprop; with all of them cut, the layers below learn nothing. How many can be missing?
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp import WeightRule


@dataclass(frozen=True)
class BrokenWires(WeightRule):
    """B = W on whole wires and 0 on broken ones.

    Args:
        share: the share of broken wires, from 0 to 1.
    """

    share: float = 0.5

    def init(self, key, weight):
        return jax.random.bernoulli(key, 1 - self.share, weight.shape)

    def backward_weight(self, weight, kept, key):
        return jnp.where(kept, weight, 0)
