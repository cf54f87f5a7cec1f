"""The ground that everything stands on: the protocol of a layer, the sweep, and models as trees of paths."""

from jaxbp.core.composite import Composite
from jaxbp.core.errors import LayerError
from jaxbp.core.layer import Layer, Params, Site
from jaxbp.core.lazy_logits import LazyLogits
from jaxbp.core.paths import leaves
from jaxbp.core.stepwise import Stepwise
from jaxbp.core.sweep import delta, keep, param_gradient, revisit, sweep

__all__ = [
    "Composite",
    "Layer",
    "LayerError",
    "LazyLogits",
    "Params",
    "Site",
    "Stepwise",
    "delta",
    "keep",
    "leaves",
    "param_gradient",
    "revisit",
    "sweep",
]
