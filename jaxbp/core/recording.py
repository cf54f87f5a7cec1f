"""Recording: a model whose layers keep what went in and what came out beside their residuals.

`sweep(recorded(model), …)` then shows every visit x and y too, which an inspection and a check want and a training step
does not.
"""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import PRNGKeyArray, PyTree

from jaxbp.core.layer import Layer
from jaxbp.core.paths import map_layers


class Record(NamedTuple):
    """What one leaf layer saw on the way forward; a pytree, so that it crosses scans."""

    x: PyTree
    y: PyTree
    residuals: PyTree
    rng: PRNGKeyArray | None


@dataclass(frozen=True)
class Recorded(Layer):
    """The layer `layer`, with a `Record` for residuals."""

    layer: Layer

    def init(self, key, x):
        return self.layer.init(key, x)

    def forward(self, params, x, rng=None):
        y, residuals = self.layer.forward(params, x, rng)
        return y, Record(x, y, residuals, rng)

    def input_gradient(self, params, record: Record, g):
        return self.layer.input_gradient(params, record.residuals, g)

    def param_gradient(self, params, record: Record, g):
        return self.layer.param_gradient(params, record.residuals, g)

    def __str__(self):
        return str(self.layer)


def recorded(model: Layer) -> Layer:
    """The same model, parameters and all, each leaf layer recorded."""
    return map_layers(model, lambda path, layer: Recorded(layer))
