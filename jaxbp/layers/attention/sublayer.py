"""The sublayer of transformers: a residual connection, a normalisation and dropout around a body.

    pre-norm     y = x + drop(body(norm(x)))         post-norm     y = norm(x + drop(body(x)))

The delta splits in two where x went two ways, and adds up there: past the body as it is, and through it. Before the
norm (pre-norm) the way past is free from top to bottom: deltas neither vanish nor explode on it.

x is an array [n, t, f], `Sequences`, or a `Context` that carries a memory beside x. The memory stays what it is, and
collects the errors of all who look at it.

Sources: Vaswani et al., arXiv 1706.03762 (post); Xiong et al., arXiv 2002.04745 (pre).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxbp.core.errors import LayerError, located
from jaxbp.core.layer import Layer
from jaxbp.core.paths import part
from jaxbp.core.sweep import Composite
from jaxbp.core.text import describe
from jaxbp.layers.dropout import Dropout
from jaxbp.layers.normalization import LayerNorm
from jaxbp.layers.sequences import Context, Sequences, values_of, with_values


@dataclass(frozen=True)
class Sublayer(Composite):
    """Maps x to x plus what the body makes of it.

    Args:
        body: an attention or a network on the features, from [n, t, f] to [n, t, f].
        cross: whether the body looks at the `Context`'s memory; else it gets x alone.
        post_norm: normalise after the sum, not before the body.
        dropout: the rate at which the body's outputs are set to zero in training.
        norm: the normalisation.
        inside: other layers in place of these, by name, as `rebuild` puts them there.
    """

    body: Layer
    cross: bool = False
    post_norm: bool = False
    dropout: float = 0.0
    norm: Layer = LayerNorm()
    inside: tuple[tuple[str, Layer], ...] = ()

    @property
    def children(self):
        return dict(self.inside) or {"norm": self.norm, "body": self.body, "dropout": Dropout(self.dropout)}

    def rebuild(self, children):
        return dataclasses.replace(self, inside=tuple(children.items()))

    def init(self, key, x):
        keys = jax.random.split(key)
        with located("norm"):
            norm = self.norm.init(keys[0], values_of(x))
        with located("body"):
            return {"norm": norm, "body": self.body.init(keys[1], self._seen(x)), "dropout": ()}

    def forward(self, params, x, rng=None):
        if self.cross and not isinstance(x, Context):
            raise LayerError(self, f"expected a Context(x, memory) to look at, got {describe(x)}")
        residuals: dict[str, Any] = {"aside": jax.tree.map(lambda a: a[:0], x)}  # what there is beside the values
        keys = (None, None) if rng is None else jax.random.split(rng)
        children = self.children

        def run(name, value, key=None):
            with located(name):
                y, residuals[name] = children[name].forward(part(params, name), value, key)
            return y

        here = values_of(x)
        inner = here if self.post_norm else run("norm", here)
        y = values_of(run("body", self._seen(with_values(x, inner)), keys[0]))
        y = here + run("dropout", y, keys[1])
        return with_values(x, run("norm", y) if self.post_norm else y), residuals

    def backward(self, walk, params, feedback, residuals, g):
        collected = {}

        def back(name, g):
            dx, collected[name] = walk(name, part(params, name), part(feedback, name), part(residuals, name), g)
            return dx

        around = back("norm", values_of(g)) if self.post_norm else values_of(g)
        inner = back("dropout", around)
        dx = back("body", with_values(own(residuals["aside"]), inner))
        through = values_of(dx)
        through = through if self.post_norm else back("norm", through)
        y = with_values(g, around + through)
        if self.cross:
            y = y._replace(memory=jax.tree.map(jnp.add, g.memory, dx.memory))
        return y, {name: collected[name] for name in self.children}

    def _seen(self, x: PyTree) -> PyTree:
        """What the body gets."""
        return x if self.cross or not isinstance(x, Context) else x.x


@dataclass(frozen=True)
class DropMemory(Layer):
    """x of a `Context`, without its memory: the end of a decoder."""

    position_wise = True

    def forward(self, params, x, rng=None):
        if not isinstance(x, Context):
            raise LayerError(self, f"expected a Context(x, memory), got {describe(x)}")
        return x.x, jax.tree.map(lambda a: a[:0], x.memory)

    def input_gradient(self, params, no_memory, g):
        n = values_of(g).shape[0]
        zeros = jnp.zeros((n, *values_of(no_memory).shape[1:]), values_of(no_memory).dtype)
        return Context(g, Sequences(zeros) if isinstance(no_memory, Sequences) else zeros)


def own(x: PyTree) -> PyTree:
    """x itself, an array or Sequences, without a memory; as a gradient, lengths are None."""
    x = x.x if isinstance(x, Context) else x
    return Sequences(x.values) if isinstance(x, Sequences) else x
