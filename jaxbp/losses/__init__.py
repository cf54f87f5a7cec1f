"""The losses, one file a family."""

from jaxbp.losses.classification import BinaryCrossEntropy, SoftmaxCrossEntropy
from jaxbp.losses.loss import Loss
from jaxbp.losses.regression import HalfSquaredError, Huber, MeanSquaredError

__all__ = ["BinaryCrossEntropy", "HalfSquaredError", "Huber", "Loss", "MeanSquaredError", "SoftmaxCrossEntropy"]
