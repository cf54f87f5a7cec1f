"""What a training is made of beside its data and its state, as one hashable value.

A recipe is what everything compiled for training is cached on: equal recipes compile once. It holds no arrays.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import optax
from jaxtyping import PRNGKeyArray, PyTree

from jaxbp.backprop import require_parts
from jaxbp.core.layer import Layer
from jaxbp.core.paths import require_paths
from jaxbp.losses.base import Loss

Augment = Callable[..., Any]  # (key, inputs) -> inputs, or (key, inputs, targets) -> (inputs, targets); same shapes


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, for `train_epoch`; `fit` and `make_train_step` make one of their arguments.

    Args:
        model: any layer.
        loss: any loss.
        optimizer: any optax optimizer.
        batch_size: examples a step.
        micro_batches: how many equal parts a batch is cut into, to be run one after the other (gradient accumulation).
        augment: a pure function applied to each batch: (key, inputs) -> inputs or, if it has a third parameter,
            (key, inputs, targets) -> (inputs, targets). Shapes stay.
        edits: functions by path that replace a delta in flight; see `value_and_grad`.
        penalties: penalties by path; see `value_and_grad`.
    """

    model: Layer
    loss: Loss
    optimizer: optax.GradientTransformation
    batch_size: int = 128
    micro_batches: int = 1
    augment: Augment | None = None
    edits: Any = None  # a mapping, kept as a tuple of its items, which has a hash
    penalties: Any = None

    def __post_init__(self):
        require_parts(self.model, self.loss)
        for name in ("batch_size", "micro_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("edits", "penalties"):
            by_path = dict(getattr(self, name) or {})
            require_paths(self.model, by_path)
            object.__setattr__(self, name, tuple(by_path.items()))
        mixing = [part for part in (self.loss, *dict(self.penalties).values()) if part.mixes_examples]
        if self.micro_batches > 1 and mixing:
            raise ValueError(
                f"{mixing[0]} mixes the examples of a batch, so the gradients of {self.micro_batches} micro-batches do "
                "not add up to that of the batch; use micro_batches=1, and Recompute inside the model to save memory"
            )

    def augmented(self, key: PRNGKeyArray, x: PyTree, targets: PyTree) -> tuple[PyTree, PyTree]:
        """A batch after `augment`."""
        if self.augment is None:
            return x, targets
        return self.augment(key, x, targets) if takes_targets(self.augment) else (self.augment(key, x), targets)

    def for_last_batch(self, left: int) -> "Recipe":
        """The recipe for fewer examples than a batch: in equal micro-batches, none larger than the others are."""
        largest = max(1, self.batch_size // self.micro_batches)
        parts = next(n for n in range(1, left + 1) if left % n == 0 and left // n <= largest)
        return replace(self, micro_batches=parts)


def takes_targets(augment: Augment) -> bool:
    """Whether a function has a third parameter that can be given by position."""
    try:
        parameters = inspect.signature(augment).parameters.values()
    except (TypeError, ValueError):  # a built-in function
        return False
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) >= 3
