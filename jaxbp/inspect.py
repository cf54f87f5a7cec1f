"""Looking inside: a table of the layers, every number of one backpropagation, the sizes of signals in training."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxbp.backprop import backpropagate
from jaxbp.layer import ArrayLike, Layer, Params, describe
from jaxbp.losses.loss import Loss, Weights
from jaxbp.record import recorded
from jaxbp.reverse import Composite, layers, leaves, param_gradient, sweep


def summary(model: Layer, x: ArrayLike) -> str:
    """A table of the leaf layers for inputs like x: path, layer, output, number of parameters."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x))

    def look(params, x):
        watched = recorded(model)
        outputs, residuals = watched.forward(params, x)
        visit = lambda site: (site.residuals.y, site.params)  # noqa: E731
        return sweep(watched, params, residuals, outputs, visit)[1]

    seen = leaves(model, jax.eval_shape(look, shapes, x))
    named = leaves_of(model)
    rows = [("path", "layer", "output", "parameters"), ("", "input", describe(x), "")]
    total = 0
    for path, (y, params) in seen.items():
        count = sum(prod(p.shape) for p in jax.tree.leaves(params))
        total += count
        rows.append((path, str(named[path]), describe(y), f"{count:,}"))
    rows.append(("", "total", "", f"{total:,}"))
    return table(rows)


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


def layer_sizes(
    model: Layer, loss: Loss, params: Params, x: PyTree, targets: PyTree, rng: PRNGKeyArray | None = None
) -> dict[str, dict[str, float]]:
    """Root mean squares by path: {"activation": of the output, "delta": of δ per example, "gradient": of ∂J/∂θ}.

    δ is taken times the number of examples, as the mean over the batch made it small. A layer without parameters has no
    "gradient". Call it after each epoch, and draw the list of results with `jaxbp.plot_flow`.
    """

    measured = leaves(model, _measure(model, loss, params, x, targets, rng))
    return {path: {name: float(np.mean(size)) for name, size in sizes.items()} for path, sizes in measured.items()}


@partial(jax.jit, static_argnums=(0, 1))
def _measure(model, loss, params, x, targets, rng):
    def visit(site):
        examples = jax.tree.leaves(site.g)[0].shape[0]
        sizes = {"activation": rms(site.residuals.y), "delta": examples * rms(site.g)}
        return sizes | ({"gradient": rms(param_gradient(site))} if jax.tree.leaves(site.params) else {})

    return backpropagate(recorded(model), loss, params, x, targets, rng, visit=visit)[1]


def rms(tree: PyTree) -> Float[Array, ""]:
    """The root of the mean square of all numbers in a tree."""
    arrays = [jnp.asarray(a, jnp.promote_types(a.dtype, jnp.float32)) for a in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(jnp.sum(a * a) for a in arrays) / sum(a.size for a in arrays))


def leaves_of(model: Layer) -> dict[str, Layer]:
    """The leaf layers by path."""
    return {path: layer for path, layer in layers(model) if not isinstance(layer, Composite)}


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words in columns, the first row a heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _named(name: str, tree: PyTree) -> str:
    texts = []
    for key, array in jax.tree_util.tree_leaves_with_path(tree):
        where = jax.tree_util.keystr(key, simple=True, separator=".")
        text = np.array2string(np.asarray(array), precision=6, suppress_small=True, threshold=60, prefix=" " * 6)
        texts.append(f"  {name}{f'.{where}' if where else ''}  {list(array.shape)}\n      {text}")
    return "\n".join(texts)
