"""Attention with a key–value cache: keys and values of all positions that have gone by are kept (see `stepwise.py`)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxbp.core.errors import LayerError, located
from jaxbp.core.paths import part
from jaxbp.core.stepwise import Stepwise
from jaxbp.layers.attention.dot_product import Attention, Heads
from jaxbp.layers.attention.positions import rotate
from jaxbp.layers.sequences import Context, Sequences, values_of


class Cache(NamedTuple):
    """How many positions have gone by, keys and values [n, s, k, d], and the memory's mask and lengths."""

    at: Any
    key: Any
    value: Any
    mask: Any = None
    lengths: Any = None


@dataclass(frozen=True)
class StepwiseAttention(Stepwise):
    """`MultiHeadAttention` of x [n, t, f], the next t positions, or of a `Context` around it."""

    layer: Any
    length: int

    def forward(self, params, x, rng=None):
        params, cache = params
        x, memory, mask = x if isinstance(x, Context) else Context(x)

        def run(name, x):
            with located(name):
                return self.layer.children[name](part(params, name), x)

        def heads(name, x, at):
            y = run(name, x)
            y = y.reshape(*y.shape[:2], -1, self.layer.size)
            return rotate(y, at, base=self.layer.rotary_base) if self.layer.rotary and name != "value" else y

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
                lengths = memory.lengths if isinstance(memory, Sequences) else None
                cache = Cache(at, heads("key", seen, 0), heads("value", seen, 0), mask, lengths)
            cache, mask = cache._replace(at=at + t), cache.mask
        y, _ = Attention(soft_cap=self.layer.soft_cap).forward(
            (), Heads(query, cache.key, cache.value, mask, cache.lengths)
        )
        return run("output", y.reshape(n, t, -1)), cache
