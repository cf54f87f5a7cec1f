"""Direct feedback: the delta at a layer is a random projection of the error at the output."""

from dataclasses import dataclass
from math import prod

import jax

from jaxbp.credit.feedback import DeltaRule


@dataclass(frozen=True)
class DirectFeedback(DeltaRule):
    """δ = e B at the output y of the layer, past all layers above. Give it the paths of the nonlinearities.

    B [outputs, y's size] is uniform between ± 1 / √(y's size).
    """

    def init(self, key, outputs, y):
        hidden = prod(y.shape[1:])
        shape = prod(outputs.shape[1:]), hidden
        return jax.random.uniform(key, shape, y.dtype, -1, 1) / hidden**0.5

    def delta(self, b, arrived):
        e, y = arrived.e, arrived.y
        return (e.reshape(len(e), -1) @ b).reshape(y.shape).astype(y.dtype), ()
