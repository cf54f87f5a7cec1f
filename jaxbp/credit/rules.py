"""The protocol of learning rules: what is sent back in the place of backprop's delta, and what is learned on the way.

    backprop      ∂J/∂x = (∂y/∂x)ᵀ δ            through the weights W of the forward pass
    WeightRule    the same, with B for W         B kept beside W, shaped as the rule likes
    DeltaRule     δ of the rule's own making     from the error e at the network's output and the layer's output y

Rules are given by path: weight rules for all layers at or below it, the longest path first, delta rules for the output
of that very layer. Where there is no rule, backprop stays. Inside a `Repeat` or `Vmap` what a rule keeps is stacked as
the parameters are, and each copy of the layer has its own.

B stands for weights only, arrays of rank 2 or more: scales and biases stay what they are.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxbp.core.layer import Layer, Params
from jaxbp.core.paths import is_below, layers, require_paths, turns_around

State = dict[str, Any]  # what rules keep, by path


class WeightRule:
    """B in the place of W.

    learns: whether B is trained beside the parameters, by `gradient`; else it is fixed.
    mirrors: whether B learns from noise instead (`mirror_weights`), by `mirror`.
    """

    learns = False
    mirrors = False

    def init(self, key: PRNGKeyArray, weight: Array) -> Array:
        """What is kept for one weight."""
        raise NotImplementedError(f"{self} doesn't define init(key, weight)")

    def backward_weight(self, weight: Array, kept: Array, key: PRNGKeyArray | None) -> Array:
        """B, shaped like W; the key is the batch's own, None where the caller gave no rng."""
        return kept

    def gradient(self, kept: Array, weight: Array, weight_gradient: Array) -> Array:
        """Of a rule that learns: what an optimizer gets for `kept`, where it gets `weight_gradient` for W."""
        raise NotImplementedError(f"{self} learns, but doesn't define gradient(kept, weight, weight_gradient)")

    def mirror(self, kept: Array, estimate: Array) -> Array:
        """Of a rule that mirrors: what is kept after an estimate of W."""
        raise NotImplementedError(f"{self} mirrors, but doesn't define mirror(kept, estimate)")


class DeltaContext(NamedTuple):
    """What a delta rule may look at.

    e: ∂J/∂outputs, the delta at the network's output.
    y: the layer's own output.
    targets, weights, total: those of the loss.
    rng: a key for this layer and batch, None in evaluation.
    """

    e: PyTree
    y: PyTree
    targets: PyTree
    rng: PRNGKeyArray | None
    weights: PyTree
    total: PyTree


class DeltaRule:
    """A delta of its own in the place of the one that arrives.

    learns: whether what is kept is trained beside the parameters; else it is fixed.
    """

    learns = False

    def init(self, key: PRNGKeyArray, outputs: PyTree, y: PyTree) -> PyTree:
        """What is kept, for a network with outputs and a layer with an output y of these shapes, [n, ...]."""
        raise NotImplementedError(f"{self} doesn't define init(key, outputs, y)")

    def delta(self, kept: PyTree, context: DeltaContext) -> tuple[PyTree, PyTree]:
        """The layer's delta, shaped like y, and the gradient of what is kept (() where nothing learns).

        It is called for each of the two, and compiled once.
        """
        raise NotImplementedError(f"{self} doesn't define delta(kept, context)")


Rules = Mapping[str, Any]  # WeightRule or DeltaRule by path


def require_rules(model: Layer, rules: Rules) -> None:
    """Raises for unknown paths, and for what is not a rule."""
    require_paths(model, rules)
    for path, rule in rules.items():
        if not isinstance(rule, WeightRule | DeltaRule):
            raise TypeError(f'expected a rule at "{path}", such as FeedbackAlignment(), got {rule!r}')
    for path in delta_rules(rules).keys() & weight_rules(model, rules).keys():
        raise ValueError(
            f'{type(rules[path]).__name__} at "{path}" is for the output of that layer, and a weight rule above it is '
            "for its weights; wrap the layer in a Serial, and give the delta rule the path of that"
        )


def delta_rules(rules: Rules) -> dict[str, DeltaRule]:
    """The delta rules by path."""
    return {path: rule for path, rule in rules.items() if isinstance(rule, DeltaRule)}


def weight_rules(model: Layer, rules: Rules) -> dict[str, WeightRule]:
    """The weight rule of each leaf layer that has one: that with the longest path."""
    chosen = {}
    for path, layer in layers(model):
        above = [p for p, rule in rules.items() if isinstance(rule, WeightRule) and is_below(path, p)]
        if above and not layer.children:
            chosen[path] = rules[max(above, key=len)]
    return chosen


def weights_in(model: Layer, path: str, tree: Params) -> tuple[list[Array], list[bool]]:
    """The arrays of a layer's parameters, and which are weights: rank 2 or more, axes of a `Repeat` not counted."""
    stacked = turns_around(model, path)
    arrays = jax.tree.leaves(tree)
    return arrays, [a.ndim - stacked >= 2 for a in arrays]


def weights_of(model: Layer, path: str, tree: Params) -> tuple[Array, ...]:
    """The weights alone."""
    return tuple(a for a, is_weight in zip(*weights_in(model, path, tree), strict=True) if is_weight)
