"""The sublayer of transformers: a residual connection, a normalisation and dropout around a body.

    pre-norm     y = x + drop(body(norm(x)))         post-norm     y = norm(x + drop(body(x)))

The delta splits in two where x went two ways, and adds up there: past the body as it is, and through it. Before the
norm (pre-norm) the way past is free from top to bottom: deltas neither vanish nor explode on it.

x is an array [n, t, f], `Sequences`, or a `Context` that carries a memory beside x. The memory stays what it is, and
collects the errors of all who look at it.

Sources: Vaswani et al., arXiv 1706.03762 (post); Xiong et al., arXiv 2002.04745 (pre).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxbp.core.composite import Composite
from jaxbp.core.errors import LayerError
from jaxbp.core.layer import Layer
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
    """

    body: Layer
    cross: bool = False
    post_norm: bool = False
    dropout: float = 0.0
    norm: Layer = LayerNorm()

    def make_children(self):
        return {"norm": self.norm, "body": self.body, "dropout": Dropout(self.dropout)}

    def wire(self, call, x):
        if self.cross and not isinstance(x, Context):
            raise LayerError(self, "expected a Context(x, memory) whose memory the body looks at, got x alone")
        here = values_of(x)
        inner = with_values(x if self.cross else without_memory(x), here if self.post_norm else call("norm", here))
        y = here + call("dropout", values_of(call("body", inner)))
        return with_values(x, call("norm", y) if self.post_norm else y)


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


def without_memory(x: PyTree) -> PyTree:
    """x of a `Context`; all else as it is."""
    return x.x if isinstance(x, Context) else x
