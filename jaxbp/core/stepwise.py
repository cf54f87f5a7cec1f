"""One position after the other: what a model has seen is kept, and only what is new goes through it.

    self-attention     K ← (K, k[t]),  V ← (V, v[t]),  y[t] = attention(q[t], K, V): the key–value cache
    cross-attention    K and V of the memory, computed once
    recurrence         the state
    positions          how many have gone by
    encoder            the memory, computed once

Position t of a causal model depends on positions s ≤ t alone, so what was computed for s stays what it is: y[t] is the
same number as if all of the text had gone through at once, for 1/t of the work.

`layer.stepwise(length)` gives the layer that does so: itself where positions don't depend on each other, else a
`Stepwise` layer that takes its place in the model. Its parameters are a pair, the other layer's and what is kept; its
residuals are what is kept from now on. Composites hand parameters down and residuals up whatever they are, so they work
as they do in training, and a `Repeat` has a cache for each of its layers.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from jaxbp.core.layer import Layer, Params
from jaxbp.core.paths import from_leaves, layers, leaves, turns_around

Kept = dict[str, PyTree]  # what is kept, by the path of the layer that keeps it; {}: nothing has been seen


class Stepwise(Layer):
    """A layer in another's place: `forward((params, kept), x) -> (y, kept)`, kept () at first.

    x are the next positions, [n, t, ...]; arrays that are kept count examples first, or are scalars.
    """


@dataclass(frozen=True)
class Once(Stepwise):
    """A layer that runs at first, and then gives the same again."""

    layer: Layer

    def forward(self, params, x, rng=None):
        params, kept = params
        (y,) = kept or (self.layer(params, x),)
        return y, (y,)


def go_on(model: Layer, params: Params, kept: Kept, x: PyTree) -> tuple[PyTree, Kept]:
    """The outputs of the next positions, and what is kept now; `model` is `stepwise`, params are the model's own."""
    keeping = [path for path, layer in layers(model) if isinstance(layer, Stepwise)]
    by_path = leaves(model, params)
    pairs = {path: (by_path[path], kept.get(path, ())) for path in keeping}
    y, residuals = model.forward(from_leaves(model, by_path | pairs), x)
    found = leaves(model, residuals)
    return y, {path: found[path] for path in keeping}


def choose_rows(model: Layer, kept: Kept, rows: Int[Array, " m"]) -> Kept:
    """What is kept of these examples, in this order."""

    def chosen(path):
        stacked = turns_around(model, path)  # axes in front of the examples'; counters have no more
        return jax.tree.map(lambda a: a if a.ndim == stacked else jnp.take(a, rows, stacked), kept[path])

    return {path: chosen(path) for path in kept}
