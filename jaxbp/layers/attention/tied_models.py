"""Models for text whose words are the same at both ends: models that are no trees.

    language model      e = W[x]                  h = body(e)                                  z = h Wᵀ
    encoder–decoder     (d, e) = W[(x, y)]        h = decoder(e, memory), memory = encoder(d)  z = h Wᵀ

W is used more than once, so its gradient is a sum: what comes by the logits z at the top, and what comes back through
the network to the rows that were looked up (see `TiedEmbedding`). The delta passes the embedding twice. On its way in
it enters by the logits alone, and takes ∂J/∂h = ∂J/∂z W along; when it has been through the network, the deltas of
both ends are known, and the embedding is visited with both:

    ∂J/∂z  →  ∂J/∂h  →  through the body  →  ∂J/∂e            (∂J/∂e, ∂J/∂z)  →  ∂J/∂W

Source: Press & Wolf, arXiv 1608.05859.
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
from jaxbp.initializers import Initializer, Normal
from jaxbp.layers.embedding import TiedEmbedding
from jaxbp.layers.sequences import Context, Sequences, values_of, with_values


class _Tied(Composite):
    """What both share: the embedding at both ends of a network that a subclass runs by `run` and `run_back`."""

    def run(self, call, embedded: PyTree) -> Any:
        """h [n, t, f] from the embedded tokens; `call(name, x) -> y` runs a child."""
        raise NotImplementedError

    def run_back(self, back, g: PyTree) -> PyTree:
        """∂J/∂embedded from that of what `run` gave; `back(name, g) -> ∂J/∂x` goes through a child."""
        raise NotImplementedError

    def rebuild(self, children):
        return dataclasses.replace(self, inside=tuple(children.items()))

    def forward(self, params, x, rng=None):
        residuals, children = {}, self.children
        names = [name for name in children if name != "embedding"]
        keys = dict(zip(names, [None] * len(names) if rng is None else jax.random.split(rng, len(names)), strict=True))

        def call(name, x):
            with located(name):
                y, residuals[name] = children[name].forward(part(params, name), x, keys.get(name))
            return y

        tokens = jax.tree.map(values_of, x, is_leaf=is_sequences)
        last = jax.tree.leaves(tokens)[-1]  # of an encoder–decoder, the target
        (embedded, _) = call("embedding", (tokens, jnp.zeros((*last.shape, self.features))))
        h = self.run(call, jax.tree.map(with_values, x, embedded, is_leaf=is_sequences))
        (_, z) = call("embedding", (tokens, values_of(h)))
        kinds = jax.tree.map(lambda a: a[:0], {"input": x, "hidden": h})
        return z, residuals | kinds | {"none": jax.tree.map(jnp.zeros_like, embedded)}

    def backward(self, walk, params, feedback, residuals, g):
        collected = {}

        def back(name, g):
            dx, collected[name] = walk(name, part(params, name), part(feedback, name), part(residuals, name), g)
            return dx

        _, dh = back("embedding", (residuals["none"], g))
        d = self.run_back(back, with_values_like(residuals["hidden"], dh))
        back("embedding", (jax.tree.map(values_of, d, is_leaf=is_sequences), g))
        return jax.tree.map(lambda _: None, residuals["input"]), {name: collected[name] for name in self.children}


@dataclass(frozen=True)
class LanguageModel(_Tied):
    """Maps tokens [n, t], or `Sequences` of them, to logits [n, t, vocabulary] of the token that follows.

    Args:
        vocabulary: how many tokens there are.
        features: numbers a token.
        body: from [n, t, features] to [n, t, features]: positions, causal blocks, a last normalisation.
        full_logits: give the logits; else a `LazyLogits`, for `LinearCrossEntropy`.
        initializer: draws the embedding.
        inside: other layers in place of these, by name, as `rebuild` puts them there.
    """

    vocabulary: int
    features: int
    body: Layer
    full_logits: bool = True
    initializer: Initializer = Normal()
    inside: tuple[tuple[str, Layer], ...] = ()

    @property
    def children(self):
        tied = TiedEmbedding(self.vocabulary, self.features, self.full_logits, self.initializer)
        return dict(self.inside) or {"embedding": tied, "body": self.body}

    def init(self, key, x):
        keys = jax.random.split(key)
        with located("body"):
            embedded = with_values(x, jax.ShapeDtypeStruct((*values_of(x).shape, self.features), jnp.float32))
            body = self.body.init(keys[1], embedded)
        return {"embedding": self.children["embedding"].init(keys[0], x), "body": body}

    def run(self, call, embedded):
        return call("body", embedded)

    def run_back(self, back, g):
        return back("body", g)


@dataclass(frozen=True)
class EncoderDecoder(_Tied):
    """Maps (source, target), tokens [n, s] and [n, t] or `Sequences` of them, to logits [n, t, vocabulary].

    Args:
        vocabulary: how many tokens there are, in both languages together.
        features: numbers a token.
        encoder: from the embedded source to a memory.
        decoder: from a `Context` of the embedded target and that memory to [n, t, features].
        full_logits: give the logits; else a `LazyLogits`, for `LinearCrossEntropy`.
        initializer: draws the embedding.
        inside: other layers in place of these, by name, as `rebuild` puts them there.
    """

    vocabulary: int
    features: int
    encoder: Layer
    decoder: Layer
    full_logits: bool = True
    initializer: Initializer = Normal()
    inside: tuple[tuple[str, Layer], ...] = ()

    @property
    def children(self):
        tied = TiedEmbedding(self.vocabulary, self.features, self.full_logits, self.initializer)
        return dict(self.inside) or {"embedding": tied, "encoder": self.encoder, "decoder": self.decoder}

    def init(self, key, x):
        if not isinstance(x, tuple) or isinstance(x, Sequences) or len(x) != 2:
            raise LayerError(self, f"expected (source, target), got {describe(x)}")
        keys, children = jax.random.split(key, 3), self.children
        embedded = [with_values(a, jax.ShapeDtypeStruct((*values_of(a).shape, self.features), jnp.float32)) for a in x]
        with located("encoder"):
            encoder = children["encoder"].init(keys[1], embedded[0])
            memory = jax.eval_shape(lambda p, x: children["encoder"].forward(p, x)[0], encoder, embedded[0])
        with located("decoder"):
            decoder = children["decoder"].init(keys[2], Context(embedded[1], memory))
        return {"embedding": children["embedding"].init(keys[0], x), "encoder": encoder, "decoder": decoder}

    def run(self, call, embedded):
        source, target = embedded
        return call("decoder", Context(target, call("encoder", source)))

    def run_back(self, back, g):
        d = back("decoder", g)
        return back("encoder", d.memory), d.x


def is_sequences(x: Any) -> bool:
    """Where to stop in a tree of inputs."""
    return isinstance(x, Sequences)


def with_values_like(kind: PyTree, gradient: Any) -> PyTree:
    """A gradient in the structure of what it is the gradient of."""
    return Sequences(gradient) if isinstance(kind, Sequences) else gradient
