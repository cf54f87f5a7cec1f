"""Learning rules that send the delta another way than backpropagation."""

from jaxbp.credit.direct_feedback import DirectFeedback
from jaxbp.credit.feedback import Angles, alignment_angles, feedback_value_and_grad, init_feedback
from jaxbp.credit.local_loss import LocalLoss
from jaxbp.credit.rules import DeltaContext, DeltaRule, WeightRule
from jaxbp.credit.weight_feedback import BatchSigns, FeedbackAlignment, FixedSigns, KolenPollack, UniformSigns
from jaxbp.credit.weight_mirror import WeightMirror, mirror_weights

__all__ = [
    "Angles",
    "BatchSigns",
    "DeltaContext",
    "DeltaRule",
    "DirectFeedback",
    "FeedbackAlignment",
    "FixedSigns",
    "KolenPollack",
    "LocalLoss",
    "UniformSigns",
    "WeightMirror",
    "WeightRule",
    "alignment_angles",
    "feedback_value_and_grad",
    "init_feedback",
    "mirror_weights",
]
