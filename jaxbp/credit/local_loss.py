"""Local losses: each layer learns from a head and a loss of its own."""

from dataclasses import dataclass

from jaxbp.core.layer import Layer
from jaxbp.core.sweep import sweep
from jaxbp.credit.rules import DeltaRule
from jaxbp.losses.base import Loss


@dataclass(frozen=True)
class LocalLoss(DeltaRule):
    """δ = ∂J'/∂y with J' the loss of head(y): the layers below learn from it alone, and the head learns with them."""

    head: Layer
    loss: Loss
    learns = True

    def init(self, key, outputs, y):
        return self.head.init(key, y)

    def delta(self, kept, context):
        outputs, residuals = self.head.forward(kept, context.y, context.rng)
        _, of_loss = self.loss.forward(outputs, context.targets, context.weights, context.total)
        return sweep(self.head, kept, residuals, self.loss.backward(of_loss))
