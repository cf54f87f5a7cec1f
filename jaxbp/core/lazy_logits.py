"""What a layer and a loss hand each other where the output matrix is left to the loss."""

from typing import Any, NamedTuple


class LazyLogits(NamedTuple):
    """Logits that are not multiplied out: hidden [n, ..., f] and weight [words, f], for `LinearCrossEntropy`.

    Its gradient is a LazyLogits too: ∂J/∂hidden and ∂J/∂weight.
    """

    hidden: Any
    weight: Any
