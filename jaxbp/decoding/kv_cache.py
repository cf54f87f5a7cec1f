"""One position after the other: what a model has seen is kept, and only what is new goes through it.

    self-attention     K ← (K, k[t]),  V ← (V, v[t]),  y[t] = attention(q[t], K, V): the key–value cache
    cross-attention    K and V of the memory, made once
    positions          how many have gone by
    encoder            the memory, made once

Position t of a causal model looks at s ≤ t alone, so what was computed for s stays what it is: y[t] is the same number
as if all of the text had gone through at once, for 1/t of the work.

Each of these is a layer that takes another's place in the model. Its parameters are a pair, the other layer's and what
is kept; its residuals are what is kept from now on. Composites hand parameters down and residuals up whatever they
are, so they work as they do in training, and a `Repeat` has a cache for each turn.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PyTree

from jaxbp.combinators import Recompute
from jaxbp.core.errors import LayerError, located
from jaxbp.core.layer import Layer, Params
from jaxbp.core.paths import from_leaves, layers, leaves, part, turns_around
from jaxbp.layers.attention.dot_product import Attention, Heads
from jaxbp.layers.attention.multi_head import MultiHeadAttention, visible
from jaxbp.layers.attention.positions import LearnedPositions, SinusoidalPositions, rotate
from jaxbp.layers.attention.tied_models import EncoderDecoder
from jaxbp.layers.embedding import TiedEmbedding
from jaxbp.layers.sequences import Context, MapValues, values_of

Kept = dict[str, PyTree]  # what is kept, by the path of the layer that keeps it; {}: nothing has been seen


def stepwise(layer: Layer, length: int) -> Layer:
    """The model that takes its positions bit by bit, `length` in all; it gives logits."""
    if isinstance(layer, MultiHeadAttention):
        return StepwiseAttention(layer, length)
    if isinstance(layer, LearnedPositions | SinusoidalPositions):
        return StepwisePositions(layer, length)
    if isinstance(layer, TiedEmbedding):
        return dataclasses.replace(layer, full_logits=True)
    if not layer.children:
        if not layer.position_wise:
            problem = "text can't go through it position by position; if it can, say position_wise = True in its class"
            raise LayerError(layer, problem)
        return layer
    children = {}
    for name, child in layer.children.items():
        with located(name):
            is_encoder = isinstance(layer, EncoderDecoder) and name == "encoder"
            children[name] = Once(child) if is_encoder else stepwise(child, length)
    if isinstance(layer, Recompute):  # which would hide what its body keeps
        return MapValues(**children)
    return layer.rebuild(children)


def go_on(model: Layer, params: Params, kept: Kept, x: PyTree) -> tuple[PyTree, Kept]:
    """The outputs of the next positions, and what is kept now; `model` comes from `stepwise`, params from the other."""
    keeping = [path for path, layer in layers(model) if isinstance(layer, Keeping)]
    by_path = leaves(model, params)
    pairs = {path: (by_path[path], kept.get(path, ())) for path in keeping}
    y, residuals = model.forward(from_leaves(model, by_path | pairs), x)
    found = leaves(model, residuals)
    return y, {path: found[path] for path in keeping}


def choose_rows(model: Layer, kept: Kept, rows: Int[Array, " m"]) -> Kept:
    """What is kept of these examples, in this order."""

    def chosen(path):
        turns = turns_around(model, path)  # axes in front of the examples'; counters have no more
        return jax.tree.map(lambda a: a if a.ndim == turns else jnp.take(a, rows, turns), kept[path])

    return {path: chosen(path) for path in kept}


class Keeping(Layer):
    """A layer in another's place: `forward((params, kept), x) -> (y, kept)`, kept () at first."""


class Cache(NamedTuple):
    """How many positions have gone by, keys and values [n, s, k, d], and the memory's mask."""

    at: Any
    key: Any
    value: Any
    mask: Any = None


@dataclass(frozen=True)
class StepwiseAttention(Keeping):
    """`MultiHeadAttention` of x [n, t, f], the next t positions, or of a `Context` around it."""

    layer: MultiHeadAttention
    length: int

    def forward(self, params, x, rng=None):
        params, cache = params
        x, memory, mask = x if isinstance(x, Context) else Context(x)

        def run(name, x):
            with located(name):
                return self.layer.children[name].forward(part(params, name), x)[0]

        def heads(name, x, at):
            y = run(name, x)
            y = y.reshape(*y.shape[:2], -1, self.layer.size)
            return rotate(y, at) if self.layer.rotary and name != "value" else y

        at = cache[0] if cache else jnp.zeros((), jnp.int32)
        query = heads("query", x, at)
        n, t = x.shape[:2]
        if memory is None:
            if not self.layer.causal:
                raise LayerError(self.layer, "it looks at what comes after: generating needs causal=True")
            new = heads("key", x, at), heads("value", x, at)
            old = cache[1:3] or [jnp.zeros((n, self.length, *a.shape[2:]), a.dtype) for a in new]
            key, value = (lax.dynamic_update_slice_in_dim(a, b, at, 1) for a, b in zip(old, new, strict=True))
            cache = Cache(at + t, key, value)
            mask = jnp.broadcast_to(jnp.arange(self.length) <= at + jnp.arange(t)[:, None], (n, t, self.length))
        else:
            if not cache:
                seen = values_of(memory)
                cache = Cache(at, heads("key", seen, 0), heads("value", seen, 0), visible(memory, mask))
            cache, mask = cache._replace(at=at + t), cache.mask
        y, _ = Attention().forward((), Heads(query, cache.key, cache.value, mask))
        return run("output", y.reshape(n, t, -1)), cache


@dataclass(frozen=True)
class StepwisePositions(Keeping):
    """Positions added to x [n, t, f], the next t of them."""

    layer: LearnedPositions | SinusoidalPositions
    length: int

    def forward(self, params, x, rng=None):
        params, kept = params
        (at,) = kept or (jnp.zeros((), jnp.int32),)
        rows, _ = self.layer.forward(params, jnp.zeros((1, self.length, x.shape[-1]), x.dtype))
        return x + lax.dynamic_slice_in_dim(rows, at, x.shape[1], 1), (at + x.shape[1],)


@dataclass(frozen=True)
class Once(Keeping):
    """A layer that runs at first, and then gives the same again."""

    layer: Layer

    def forward(self, params, x, rng=None):
        params, kept = params
        (y,) = kept or (self.layer.forward(params, x)[0],)
        return y, (y,)
