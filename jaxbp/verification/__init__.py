"""Proof: a model or a layer compared with autodiff."""

from jaxbp.verification.check_gradients import check_gradients
from jaxbp.verification.check_layer import check_layer

__all__ = [
    "check_gradients",
    "check_layer",
]
