"""Scaled dot-product attention, in memory that grows with the length and not with its square.

Let n run over examples, h over heads, t over queries, s over keys, d over the D features of a head, and c = 1/√D.
In one head of one example, with z = -∞ where t may not look at s:

    z[t,s] = c Σ_d q[t,d] k[s,d]     p[t,s] = e^(z[t,s] - ℓ[t]),  ℓ[t] = log Σ_s e^z[t,s]     y[t,d] = Σ_s p[t,s] v[s,d]

With g = ∂J/∂y, each value gets the errors of those who looked at it, and each weight p what its value would have done
against the error:

    ∂J/∂v[s,d] = Σ_t p[t,s] g[t,d]                            ∂J/∂p[t,s] = Σ_d g[t,d] v[s,d]

Through the softmax of row t, with D[t] = Σ_s p[t,s] ∂J/∂p[t,s] = Σ_d g[t,d] y[t,d]:

    ∂J/∂z[t,s] = p[t,s] (∂J/∂p[t,s] - D[t])
    ∂J/∂q[t,d] = c Σ_s ∂J/∂z[t,s] k[s,d]                      ∂J/∂k[s,d] = c Σ_t ∂J/∂z[t,s] q[t,d]

`PlainAttention` is these lines. It keeps the weights p, T² numbers a head: good to look at. `Attention` keeps y and ℓ,
from which a row of p and D[t] follow again. It takes some queries at a time, there and back, and no more of p than
these rows ever exists. Of a causal mask's empty half it leaves out most.

A query that may look at nothing has y = 0, and no gradient.

Sources: Vaswani et al., arXiv 1706.03762, eq. 1; Rabe & Staats, arXiv 2112.05682, and Dao et al., arXiv 2205.14135
(rows again from ℓ; D from y); Ainslie et al., arXiv 2305.13245 (grouped queries).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from jaxbp.core.errors import LayerError, require_floating
from jaxbp.core.layer import Layer
from jaxbp.core.numerics import accumulation_dtype, contract
from jaxbp.core.text import describe
from jaxbp.layers.sequences import in_time, require_lengths

WEIGHTS_AT_ONCE = 2**19  # upper bound on attention weights held in memory
STRIPES = 4  # of a causal mask; each sees the keys up to its own end


class Heads(NamedTuple):
    """query [n, t, h, d], key and value [n, s, k, d], and who may look at whom.

    Groups of h / k queries' heads share a head of keys and values. mask: True where a query may look at a key, [n, s],
    [n, t, s] or [n, h, t, s]; None: everywhere. lengths [n]: keys at s ≥ lengths[n] are padding; None: there is none.
    """

    query: Any
    key: Any
    value: Any
    mask: Any = None
    lengths: Any = None


@dataclass(frozen=True)
class PlainAttention(Layer):
    """Maps `Heads` to y [n, t, h, d] as the textbook writes it; the residuals begin with the weights p [n, k, g, t, s].

    Args:
        causal: query t looks at the keys s ≤ t alone.
        dropout: the rate at which weights are set to zero, in training.
        soft_cap: C > 0; scores are C tanh(z / C), which no z makes larger than C. None: z itself.
    """

    causal: bool = False
    dropout: float = 0.0
    soft_cap: float | None = None

    def __post_init__(self):
        if self.soft_cap is not None and not self.soft_cap > 0:
            raise ValueError(f"{type(self).__name__} needs a positive soft_cap, not {self.soft_cap}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{type(self).__name__} needs 0 <= dropout < 1, not {self.dropout}")

    def forward(self, params, x, rng=None):
        q, k, v, mask = arranged(self, x)
        p, _ = softmax(self._logits(q, k, mask, 0))
        y = contract("nkgts,nksd->nkgtd", self._dropped(p, rng, 0).astype(v.dtype), v, dtype=v.dtype)
        return joined(y), (p, q, k, v, mask, rng)

    def input_gradient(self, params, residuals, g: Float[Array, "n t h d"]) -> Heads:
        p, q, k, v, _, rng = residuals
        g = parted(g, k.shape[1])
        d = jnp.sum(p * self._dropped(self._dp(g, v), rng, 0), -1)
        dq, dk, dv = self._gradients(q, k, v, p, g, d, rng, 0)
        return Heads(joined(dq), *(jnp.swapaxes(d, 1, 2).astype(k.dtype) for d in (dk, dv)))

    def _logits(self, q, k, mask, first):
        """z of the queries from number `first` on, wide."""
        z = self._scores(q, k)
        if self.soft_cap is not None:
            z = self.soft_cap * jnp.tanh(z / self.soft_cap)
        if mask is not None:
            z = jnp.where(mask, z, -jnp.inf)
        if self.causal:
            t, s = (lax.broadcasted_iota(jnp.int32, z.shape[3:], axis) for axis in (0, 1))
            z = jnp.where(s <= t + first, z, -jnp.inf)
        return z

    def _scores(self, q, k):
        """c q k, in the accumulation dtype."""
        return contract("nkgtd,nksd->nkgts", q, k, dtype=accumulation_dtype(q)) / sqrt(q.shape[-1])

    def _dp(self, g, v):
        """∂J/∂p of weights that none was dropped of."""
        return contract("nkgtd,nksd->nkgts", g, v, dtype=accumulation_dtype(g))

    def _gradients(self, q, k, v, p, g, d, rng, first):
        """∂J/∂q, and these queries' part of ∂J/∂k and ∂J/∂v, wide."""
        dropped = self._dropped(p, rng, first).astype(g.dtype)
        dv = contract("nkgts,nkgtd->nksd", dropped, g, dtype=accumulation_dtype(g))
        dp = self._dropped(self._dp(g, v), rng, first)
        dz = p * (dp - d[..., None]) / sqrt(q.shape[-1])
        if self.soft_cap is not None:
            dz = dz * (1 - jnp.square(jnp.tanh(self._scores(q, k) / self.soft_cap)))
        dz = dz.astype(q.dtype)
        return (
            contract("nkgts,nksd->nkgtd", dz, k, dtype=q.dtype),
            contract("nkgts,nkgtd->nksd", dz, q, dtype=accumulation_dtype(g)),
            dv,
        )

    def _dropped(self, p, rng, first):
        """p with some weights dropped; the rest made up for them."""
        if rng is None or self.dropout == 0:
            return p
        kept = jax.random.bernoulli(jax.random.fold_in(rng, first), 1 - self.dropout, p.shape)
        return jnp.where(kept, p / (1 - self.dropout), 0)


@dataclass(frozen=True)
class Attention(PlainAttention):
    """Maps `Heads` to y [n, t, h, d], in memory linear in t and s; `PlainAttention` says how, and has the same numbers.

    Args:
        causal: query t looks at the keys s ≤ t alone.
        dropout: the rate at which weights are set to zero, in training.
        soft_cap: C > 0; scores are C tanh(z / C), which no z makes larger than C. None: z itself.
        rows: how many queries are taken at a time; None: so many that about half a million weights exist at once.
    """

    rows: int | None = None

    def forward(self, params, x, rng=None):
        q, k, v, mask = arranged(self, x)

        def some(_, first, count, keys):
            p, log_sum = softmax(
                self._logits(at(q, first, count), k[:, :, :keys], seen(mask, first, count, keys), first)
            )
            p = self._dropped(p, rng, first).astype(v.dtype)
            return None, (contract("nkgts,nksd->nkgtd", p, v[:, :, :keys], dtype=v.dtype), log_sum)

        _, (y, log_sum) = self._by_rows(some, None, q, k)
        y = joined(y)
        return y, (q, k, v, mask, y, log_sum, rng)

    def input_gradient(self, params, residuals, g: Float[Array, "n t h d"]) -> Heads:
        q, k, v, mask, y, log_sum, rng = residuals
        d = parted(jnp.sum(g.astype(accumulation_dtype(g)) * y, -1, keepdims=True), k.shape[1])
        g = parted(g, k.shape[1])

        def some(sums, first, count, keys):
            q_, g_, d_, log_sum_ = (at(x, first, count) for x in (q, g, d, log_sum[..., None]))
            z = self._logits(q_, k[:, :, :keys], seen(mask, first, count, keys), first)
            p = jnp.exp(z - log_sum_)
            dq, *parts = self._gradients(q_, k[:, :, :keys], v[:, :, :keys], p, g_, d_[..., 0], rng, first)
            return [total.at[:, :, :keys].add(part) for total, part in zip(sums, parts, strict=True)], dq

        # A zero made of g (NaN or not), or XLA would fill these arrays at the beginning of the program.
        zero = jnp.minimum(jnp.abs(jnp.nan_to_num(g[0, 0, 0, 0, 0])), 0)
        zeros = [jnp.full(x.shape, zero, accumulation_dtype(x)) for x in (k, v)]
        (dk, dv), dq = self._by_rows(some, zeros, q, k)
        return Heads(joined(dq), *(jnp.swapaxes(d, 1, 2).astype(k.dtype) for d in (dk, dv)))

    def _by_rows(self, some: Callable, carry: PyTree, q: Array, k: Array) -> tuple[PyTree, PyTree]:
        """Runs `some(carry, first, count, keys) -> (carry, rows)` over all queries; their rows joined along t."""
        t, s = q.shape[3], k.shape[2]
        count = self.rows or max(1, WEIGHTS_AT_ONCE // (q.size // (t * q.shape[-1]) * s))
        stripes = min(STRIPES, -(-t // count)) if self.causal else 1
        edges, found = [t * i // stripes for i in range(stripes + 1)], []
        for start, stop in pairwise(edges):
            keys = min(stop, s) if self.causal else s
            # In two steps or more: of a loop of one step XLA would keep p for the backward pass.
            carry, rows = scan_rows(some, carry, start, stop, min(count, -(-(stop - start) // 2)), keys)
            found.append(rows)
        return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts, 3), *found)


def scan_rows(some, carry, start, stop, count, keys):
    """The rows from `start` to `stop`, `count` at a time, and then what is left."""
    blocks, left = divmod(stop - start, count)
    carry, rows = lax.scan(
        lambda carry, first: some(carry, first, count, keys), carry, start + count * jnp.arange(blocks)
    )
    rows = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 3).reshape(*x.shape[1:4], -1, *x.shape[5:]), rows)
    if left:
        carry, rest = some(carry, stop - left, left, keys)
        rows = jax.tree.map(lambda *parts: jnp.concatenate(parts, 3), rows, rest)
    return carry, rows


def at(x: Shaped[Array, "n k g t d"], first: Any, count: int) -> Shaped[Array, "n k g rows d"]:
    """Some of the queries."""
    return lax.dynamic_slice_in_dim(x, first, count, 3)


def seen(mask: Bool[Array, "n k g t s"] | None, first: Any, count: int, keys: int):
    """The mask of some queries and the first keys."""
    if mask is None:
        return None
    mask = mask[..., :keys]
    return mask if mask.shape[3] == 1 else at(mask, first, count)


def softmax(z: Float[Array, "n k g t s"]) -> tuple[Float[Array, "n k g t s"], Float[Array, "n k g t"]]:
    """p and ℓ; where all of a row is -∞, p = 0 and ℓ = 0, from which p = 0 follows again."""
    highest = jnp.max(z, -1, keepdims=True)
    e = jnp.exp(z - jnp.where(highest == -jnp.inf, 0, highest))
    total = jnp.sum(e, -1, keepdims=True)
    nothing = total == 0
    return e / jnp.where(nothing, 1, total), jnp.where(nothing, 0, highest + jnp.log(total))[..., 0]


def arranged(layer: Layer, x: Heads) -> tuple[Array, Array, Array, Array | None]:
    """query [n, k, g, t, d], key and value [n, k, s, d], mask [n, 1 or k, 1 or g, 1 or t, s], with g = h / k."""
    require_heads(layer, x)
    q, k, v, mask, lengths = x
    groups = k.shape[2]
    if lengths is not None:
        real = in_time(k, lengths)
        mask = real if mask is None else mask & jnp.expand_dims(real, range(1, mask.ndim - 1))
    if mask is not None:
        mask = mask.reshape(mask.shape[0], *(1,) * (4 - mask.ndim), *mask.shape[1:])  # [n, 1 or h, 1 or t, s]
        mask = mask[:, None] if mask.shape[1] == 1 else mask.reshape(mask.shape[0], groups, -1, *mask.shape[2:])
    return parted(q, groups), jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2), mask


def parted(x: Float[Array, "n t h d"], groups: int) -> Float[Array, "n k g t d"]:
    """The queries' heads in groups."""
    return jnp.moveaxis(x.reshape(*x.shape[:2], groups, -1, x.shape[-1]), 1, 3)


def joined(x: Float[Array, "n k g t d"]) -> Float[Array, "n t h d"]:
    """The inverse of `parted`."""
    x = jnp.moveaxis(x, 3, 1)
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def require_heads(layer: Layer, x: Heads) -> None:
    """Refuses what doesn't fit together."""
    if not isinstance(x, Heads):
        raise LayerError(layer, f"expected Heads(query, key, value, mask), got {describe(x)}")
    q, k, v, mask, lengths = x
    for array in (q, k, v):
        require_floating(layer, array)
    if (
        any(array.ndim != 4 for array in (q, k, v))
        or k.shape != v.shape
        or (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3])
    ):
        raise LayerError(
            layer,
            f"expected query [n, t, h, d], key and value [n, s, k, d], got {describe((q, k, v))}",
        )
    n, t, h, _ = q.shape
    s, groups = k.shape[1:3]
    if h % groups:
        raise LayerError(
            layer,
            f"{groups} heads of keys and values can't be shared by {h} heads of queries: {groups} must divide {h}",
        )
    if layer.causal and t != s:
        raise LayerError(layer, f"a causal mask needs as many queries as keys, got {t} and {s}")
    if lengths is not None:
        require_lengths(layer, lengths, n, s)
    if mask is not None and (mask.shape not in ((n, s), (n, t, s), (n, h, t, s)) or mask.dtype != bool):
        raise LayerError(
            layer, f"expected a mask bool{[n, s]}, bool{[n, t, s]} or bool{[n, h, t, s]}, got {describe(mask)}"
        )
