"""Data in memory: inputs, targets and, perhaps, weights, each an array or a tree of arrays, examples first."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxbp.backprop import require_examples, require_fit
from jaxbp.core.composite import output_of
from jaxbp.core.layer import Layer, Params
from jaxbp.core.text import describe
from jaxbp.losses.base import Loss

Data = Sequence[Any]  # (inputs, targets) or (inputs, targets, weights)


class Examples(NamedTuple):
    """Inputs, targets and weights, as arrays; weights are None where all examples count alike."""

    x: PyTree
    targets: PyTree
    weights: PyTree = None


def examples_of(data: Data) -> Examples:
    """The data as arrays; raises if they have another number of parts or sizes that differ."""
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise ValueError(f"expected (inputs, targets) or (inputs, targets, weights), got {describe(data)}")
    examples = jax.tree.map(jnp.asarray, Examples(*data))
    require_examples(examples.x)
    parts = {name: jax.tree.leaves(tree) for name, tree in examples._asdict().items()}
    if len({array.shape[:1] for arrays in parts.values() for array in arrays}) > 1:
        got = ", ".join(f"{name} {describe(tree)}" for name, tree in examples._asdict().items() if parts[name])
        raise ValueError(f"expected inputs, targets and weights of equally many examples (the first axis), got {got}")
    return examples


def count(examples: PyTree) -> int:
    """How many examples there are."""
    return jax.tree.leaves(examples)[0].shape[0]


def require_data(model: Layer, loss: Loss, params: Params, examples: Examples) -> None:
    """Raises if model and loss can't work with the data, before anything runs."""
    outputs = output_of(model, params, examples.x)
    require_fit(model, loss, outputs, examples.targets)
    if all(np.all(np.asarray(w)) for w in jax.tree.leaves(examples.weights)):  # what does not count may be anything
        loss.require(outputs, examples.targets)
