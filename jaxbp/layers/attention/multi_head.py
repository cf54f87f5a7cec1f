"""Multi-head attention: several attentions side by side, each in a space of its own, made of layers that are known.

    q, k, v = x W_q, m W_k, m W_v         dense layers; m = x (self-attention) or a memory (cross-attention)
    y       = attention(q, k, v) W_o      with features cut into heads

The delta comes back through W_o, is cut into heads, goes through attention, and by the three dense layers to x and m;
where m = x the three parts add up. As the weights lie in dense layers, all that is known of dense layers
(per-example norms, Kronecker factors, feedback) is known of them.

Source: Vaswani et al., arXiv 1706.03762, section 3.2.2.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxbp.core.errors import LayerError, located, require_floating, require_positive
from jaxbp.core.layer import Layer
from jaxbp.core.paths import part
from jaxbp.core.sweep import Composite
from jaxbp.core.text import describe
from jaxbp.initializers import Glorot, Initializer
from jaxbp.layers.attention.dot_product import Attention, Heads, PlainAttention
from jaxbp.layers.attention.positions import rotate
from jaxbp.layers.dense import Dense
from jaxbp.layers.sequences import Context, Sequences, in_time, require_lengths, values_of, with_values


@dataclass(frozen=True)
class MultiHeadAttention(Composite):
    """Maps x [n, t, features], `Sequences`, or a `Context`, to values like x's.

    Args:
        features: of x and of the output.
        heads: how many attentions; they divide the features.
        causal: position t looks at s ≤ t alone.
        heads_per_group: how many heads share one head of keys and values (grouped queries), a divisor of heads.
        dropout: of the attention's weights.
        rotary: tell positions apart by turning queries and keys (`jaxbp.layers.attention.positions`).
        bias: whether the dense layers have one.
        keep_weights: keep the weights (`PlainAttention`), to look at them.
        initializer: of the dense layers' weights.
        inside: other layers in place of its own, by name, as `rebuild` puts them there.
    """

    features: int
    heads: int
    causal: bool = False
    heads_per_group: int = 1
    dropout: float = 0.0
    rotary: bool = False
    bias: bool = True
    keep_weights: bool = False
    initializer: Initializer = Glorot()
    inside: tuple[tuple[str, Layer], ...] = ()

    def __post_init__(self):
        require_positive(self, features=self.features, heads=self.heads, heads_per_group=self.heads_per_group)
        for divisor, number, what in (
            (self.heads, self.features, f"{self.heads} heads must divide {self.features} features"),
            (
                self.heads_per_group,
                self.heads,
                f"{self.heads_per_group} heads a group must divide {self.heads} heads",
            ),
            (2 if self.rotary else 1, self.size, f"rotary positions need heads of even size, not {self.size}"),
        ):
            if number % divisor:
                raise ValueError(f"MultiHeadAttention: {what}")

    @property
    def size(self) -> int:
        """Features of a head."""
        return self.features // self.heads

    @property
    def children(self):
        if self.inside:
            return dict(self.inside)

        def dense(outputs):
            return Dense(outputs, self.bias, self.initializer)

        return {
            "query": dense(self.features),
            "key": dense(self.features // self.heads_per_group),
            "value": dense(self.features // self.heads_per_group),
            "attention": (PlainAttention if self.keep_weights else Attention)(self.causal, self.dropout),
            "output": dense(self.features),
        }

    def rebuild(self, children):
        return dataclasses.replace(self, inside=tuple(children.items()))

    def init(self, key, x):
        x, memory = self._parts(x)
        params = {"attention": ()}
        for name, k in zip(("query", "key", "value"), jax.random.split(key, 4)[:3], strict=True):
            with located(name):
                params[name] = self.children[name].init(k, values_of(x if name == "query" else memory))
        joined = jax.ShapeDtypeStruct((*values_of(x).shape[:2], self.features), values_of(x).dtype)
        with located("output"):
            params["output"] = self.children["output"].init(jax.random.split(key, 4)[3], joined)
        return {name: params[name] for name in self.children}

    def forward(self, params, x, rng=None):
        own, memory = self._parts(x)
        mask = visible(memory, x.mask if isinstance(x, Context) else None)
        children, residuals, heads = self.children, {}, []
        for name in ("query", "key", "value"):
            with located(name):
                y, residuals[name] = children[name].forward(
                    part(params, name), values_of(own if name == "query" else memory)
                )
            heads.append(y.reshape(*y.shape[:2], -1, self.size))
        if self.rotary:
            heads[:2] = map(rotate, heads[:2])
        with located("attention"):
            y, residuals["attention"] = children["attention"].forward(
                part(params, "attention"), Heads(*heads, mask), rng
            )
        with located("output"):
            y, residuals["output"] = children["output"].forward(part(params, "output"), y.reshape(*y.shape[:2], -1))
        residuals["input"] = jax.tree.map(lambda a: a[:0], x)  # whether there is a memory, and of what kind
        return with_values(own, y), residuals

    def backward(self, walk, params, feedback, residuals, g):
        def back(name, g):
            return walk(name, part(params, name), part(feedback, name), part(residuals, name), g)

        collected = {}
        g, collected["output"] = back("output", values_of(g))
        heads, collected["attention"] = back("attention", g.reshape(*g.shape[:2], self.heads, self.size))
        dq, dk, dv, _ = heads
        if self.rotary:
            dq, dk = rotate(dq, back=True), rotate(dk, back=True)
        d = {}
        for name, g in (("query", dq), ("key", dk), ("value", dv)):
            d[name], collected[name] = back(name, g.reshape(*g.shape[:2], -1))
        dx = self._gradient(residuals["input"], d["query"], d["key"] + d["value"])
        return dx, {name: collected[name] for name in self.children}

    def _gradient(self, like: PyTree, dx: Array, dm: Array) -> PyTree:
        """∂J/∂x in the structure of the input."""

        def of(kind, gradient):
            return Sequences(gradient) if isinstance(kind, Sequences) else gradient

        if not isinstance(like, Context):
            return of(like, dx + dm)
        if like.memory is None:
            return Context(of(like.x, dx + dm))
        return Context(of(like.x, dx), of(like.memory, dm))

    def _parts(self, x: PyTree) -> tuple[PyTree, PyTree]:
        """x and the memory."""
        x, memory, _ = x if isinstance(x, Context) else Context(x)
        memory = x if memory is None else memory
        for sequences in (x, memory):
            array = values_of(sequences)
            require_floating(self, array)
            if len(array.shape) != 3:
                raise LayerError(self, f"expected [examples, positions, features], got {describe(array)}")
            if isinstance(sequences, Sequences) and sequences.lengths is not None:
                require_lengths(self, sequences.lengths, *array.shape[:2])
        return x, memory


def visible(memory: PyTree, mask: Array | None) -> Array | None:
    """What the user and the memory's padding both leave to be looked at."""
    if not isinstance(memory, Sequences) or memory.lengths is None:
        return mask
    real = in_time(memory.values, memory.lengths)
    if mask is None:
        return real
    if mask.ndim not in (2, 3, 4) or (mask.shape[0], mask.shape[-1]) != real.shape:
        return mask  # which the attention will refuse
    return mask & jnp.expand_dims(real, range(1, mask.ndim - 1))
