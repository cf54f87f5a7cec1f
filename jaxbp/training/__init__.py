"""Training steps and the loop around them."""

from jaxbp.training.divergence import Diverged
from jaxbp.training.evaluation import evaluate
from jaxbp.training.fit import fit, train_epoch
from jaxbp.training.recipe import Recipe
from jaxbp.training.step import TrainState, make_train_step
from jaxbp.training.truncated_bptt import truncated_value_and_grad

__all__ = [
    "Diverged",
    "Recipe",
    "TrainState",
    "evaluate",
    "fit",
    "make_train_step",
    "train_epoch",
    "truncated_value_and_grad",
]
