"""Looking inside: a table of the layers, every number of one backpropagation, the sizes of signals in training."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxbp.backprop import backpropagate
from jaxbp.core.layer import Layer, Params
from jaxbp.core.paths import leaves, leaves_of
from jaxbp.core.recording import recorded
from jaxbp.core.sweep import param_gradient
from jaxbp.losses.base import Loss, Weights


@dataclass(frozen=True)
class LayerTrace:
    """What one layer saw and said: arrays or trees of them, inside a `Repeat` stacked over turns.

    output: z where the layer has parameters, the activation a where it has none.
    delta: ∂J/∂output.
    gradient: ∂J/∂params.
    """

    layer: Layer
    params: Params
    input: PyTree
    output: PyTree
    delta: PyTree
    gradient: Params


@dataclass(frozen=True)
class Trace:
    """Every quantity of one forward and backward pass; prints as text."""

    x: PyTree
    layers: dict[str, LayerTrace]
    outputs: PyTree
    loss: Float[Array, ""]

    def __str__(self) -> str:
        lines = [_named("x", self.x)]
        for path, at in self.layers.items():
            lines += [f'layer "{path}", {at.layer}', _named("z" if jax.tree.leaves(at.params) else "a", at.output)]
        lines.append(_named("loss J", self.loss))
        for path, at in reversed(self.layers.items()):
            lines += [f'layer "{path}", {at.layer}', _named("δ = ∂J/∂" + ("z" if at.gradient else "a"), at.delta)]
            for key, gradient in jax.tree_util.tree_leaves_with_path(at.gradient):
                lines.append(_named(f"∂J/∂{jax.tree_util.keystr(key, simple=True, separator='.')}", gradient))
        return "\n".join(lines)


def trace(
    model: Layer,
    loss: Loss,
    params: Params,
    x: PyTree,
    targets: PyTree,
    rng: PRNGKeyArray | None = None,
    weights: Weights | None = None,
) -> Trace:
    """Every z, a, δ and gradient by the layer's path; arguments as in `value_and_grad`."""
    watched = recorded(model)
    outputs, _ = model.forward(params, x, rng)

    def visit(site):
        return site.params, site.residuals.x, site.residuals.y, site.g, param_gradient(site)

    value, seen, _ = backpropagate(watched, loss, params, x, targets, rng, weights, visit=visit)
    named = leaves_of(model)
    return Trace(x, {path: LayerTrace(named[path], *at) for path, at in leaves(model, seen).items()}, outputs, value)


def _named(name: str, tree: PyTree) -> str:
    texts = []
    for key, array in jax.tree_util.tree_leaves_with_path(tree):
        where = jax.tree_util.keystr(key, simple=True, separator=".")
        text = np.array2string(np.asarray(array), precision=6, suppress_small=True, threshold=60, prefix=" " * 6)
        texts.append(f"  {name}{f'.{where}' if where else ''}  {list(array.shape)}\n      {text}")
    return "\n".join(texts)
