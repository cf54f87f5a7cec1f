"""The losses, one file a family."""

from jaxbp.losses.base import Loss, Measure
from jaxbp.losses.classification import BinaryCrossEntropy, SoftmaxCrossEntropy
from jaxbp.losses.contrastive import InfoNCE
from jaxbp.losses.ctc import CTC, Transcripts
from jaxbp.losses.example_loss import ExampleLoss
from jaxbp.losses.hinge import Hinge
from jaxbp.losses.kl_divergence import KLDivergence
from jaxbp.losses.likelihoods import GaussianNLL, Poisson
from jaxbp.losses.linear_cross_entropy import LinearCrossEntropy
from jaxbp.losses.metric_learning import CosineEmbedding, Triplet
from jaxbp.losses.penalties import L1, L2, GaussianKL, LoadBalance, Penalty
from jaxbp.losses.reduction import Reduction
from jaxbp.losses.regression import HalfSquaredError, Huber, MeanSquaredError, Quantile
from jaxbp.losses.segmentation import Dice, Focal
from jaxbp.losses.sum_of_losses import SumOfLosses

__all__ = [
    "CTC",
    "L1",
    "L2",
    "BinaryCrossEntropy",
    "CosineEmbedding",
    "Dice",
    "ExampleLoss",
    "Focal",
    "GaussianKL",
    "GaussianNLL",
    "HalfSquaredError",
    "Hinge",
    "Huber",
    "InfoNCE",
    "KLDivergence",
    "LinearCrossEntropy",
    "LoadBalance",
    "Loss",
    "MeanSquaredError",
    "Measure",
    "Penalty",
    "Poisson",
    "Quantile",
    "Reduction",
    "SoftmaxCrossEntropy",
    "SumOfLosses",
    "Transcripts",
    "Triplet",
]
