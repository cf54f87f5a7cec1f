"""The losses, one file a family."""

from jaxbp.losses.base import Loss
from jaxbp.losses.classification import BinaryCrossEntropy, SoftmaxCrossEntropy
from jaxbp.losses.ctc import CTC, Transcripts
from jaxbp.losses.linear_cross_entropy import LinearCrossEntropy
from jaxbp.losses.regression import HalfSquaredError, Huber, MeanSquaredError

__all__ = [
    "CTC",
    "BinaryCrossEntropy",
    "HalfSquaredError",
    "Huber",
    "LinearCrossEntropy",
    "Loss",
    "MeanSquaredError",
    "SoftmaxCrossEntropy",
    "Transcripts",
]
