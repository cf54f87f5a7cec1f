"""Local losses: each layer learns from a head and a loss of its own."""

from dataclasses import dataclass

import jax

from jaxbp.core.layer import Layer
from jaxbp.core.sweep import sweep
from jaxbp.credit.feedback import DeltaRule
from jaxbp.losses.base import Loss


@dataclass(frozen=True)
class LocalLoss(DeltaRule):
    """δ = ∂J'/∂y with J' the loss of head(y): the layers below learn from it alone, and the head learns with them."""

    head: Layer
    loss: Loss
    learns = True

    def init(self, key, outputs, y):
        return self.head.init(key, y)

    def delta(self, params, arrived):
        rng = None if arrived.rng is None else jax.random.fold_in(arrived.rng, 0x10CA)
        outputs, residuals = self.head.forward(params, arrived.y, rng)
        _, kept = self.loss.forward(outputs, arrived.targets, arrived.weights, arrived.total)
        return sweep(self.head, params, residuals, self.loss.backward(kept))
