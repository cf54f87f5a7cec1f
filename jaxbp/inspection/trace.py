"""Every number of one backpropagation: what went into each layer, what came out, its δ and its gradient."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxbp.backprop import run
from jaxbp.core.layer import Layer, Params
from jaxbp.core.paths import leaves, leaves_of
from jaxbp.core.recording import record_of, recorded
from jaxbp.core.shared import Uses
from jaxbp.core.sweep import param_gradient
from jaxbp.losses.base import Loss, Weights


@dataclass(frozen=True)
class LayerTrace:
    """What one layer saw and said: arrays or trees of them, stacked over the layers of a `Repeat` or `Vmap`.

    Of a layer that is used several times, input, output and delta are tuples with one entry for each use.

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

    @property
    def letter(self) -> str:
        """What the output is called: z or a."""
        return "z" if jax.tree.leaves(self.params) else "a"


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
            lines += [f'layer "{path}", {at.layer}', _named(at.letter, at.output)]
        lines.append(_named("loss J", self.loss))
        for path, at in reversed(self.layers.items()):
            lines += [f'layer "{path}", {at.layer}', _named(f"δ = ∂J/∂{at.letter}", at.delta)]
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
    forward = run(recorded(model), loss, params, x, targets, rng, weights)

    def visit(site):
        record = record_of(site)
        return site.params, record.x, record.y, site.g, param_gradient(site)

    named, seen = leaves_of(model), leaves(model, forward.sweep(visit)[1])
    by_path = {path: LayerTrace(named[path], *at) for path, at in seen.items()}
    return Trace(x, by_path, forward.outputs, forward.value)


def _named(name: str, tree: PyTree) -> str:
    """The arrays of a tree, each under the name and its place."""
    if isinstance(tree, Uses):
        return "\n".join(_named(f"{name}, use {i} of {len(tree)},", use) for i, use in enumerate(tree, 1))
    texts = []
    for key, array in jax.tree_util.tree_leaves_with_path(tree):
        where = jax.tree_util.keystr(key, simple=True, separator=".")
        text = np.array2string(np.asarray(array), precision=6, suppress_small=True, threshold=60, prefix=" " * 6)
        texts.append(f"  {name}{f'.{where}' if where else ''}  {list(array.shape)}\n      {text}")
    return "\n".join(texts)
