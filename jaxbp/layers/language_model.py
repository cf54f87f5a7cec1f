"""A language model whose words are the same at both ends: a model that is no tree.

    e = W[x]          h = body(e)          z = h Wᵀ, logits of the word that follows each position

W is used twice, so its gradient is a sum of two: what comes through the logits at the top, and what comes back through
the body to the rows at the bottom (see `embedding.py`). The delta goes from the top straight into the body, and the
embedding is visited last, when both of its deltas are known.

    ∂J/∂h = ∂J/∂z W          ∂J/∂e by the body's own sweep          ∂J/∂W from (∂J/∂e, ∂J/∂z), at one site

Source: Press & Wolf, arXiv 1608.05859.
"""

from dataclasses import dataclass

import jax
from jaxtyping import Int, PyTree

from jaxbp.layer import Layer, located
from jaxbp.layers.embedding import TiedEmbedding
from jaxbp.layers.sequences import Sequences, values_of, with_values
from jaxbp.reverse import Composite, part


@dataclass(frozen=True)
class LanguageModel(Composite):
    """Maps tokens [n, t], or `Sequences` of them, to logits [n, t, vocabulary] (or a `Projection`, see TiedEmbedding).

    Args:
        embedding: the tied embedding; with whole=False the model ends in `LinearCrossEntropy`.
        body: from [n, t, features] to [n, t, features]: positions, blocks, a last normalisation.
    """

    embedding: TiedEmbedding
    body: Layer

    @property
    def children(self):
        return {"embedding": self.embedding, "body": self.body}

    def rebuild(self, children):
        return LanguageModel(**children)

    def init(self, key, x):
        keys = jax.random.split(key)
        with located("embedding"):
            embedding = self.embedding.init(keys[0], x)
        embedded = jax.eval_shape(lambda p, x: self._look_up(p, x), embedding, x)
        with located("body"):
            return {"embedding": embedding, "body": self.body.init(keys[1], embedded)}

    def forward(self, params, x: Int[jax.Array, "n t"] | PyTree, rng=None):
        with located("embedding"):
            embedded = self._look_up(part(params, "embedding"), x)
        with located("body"):
            h, residuals = self.body.forward(part(params, "body"), embedded, rng)
        with located("embedding"):
            z = self.embedding.project(params["embedding"], values_of(h))
        return z, {
            "embedding": (values_of(x), values_of(h)),
            "body": residuals,
            "like": jax.tree.map(lambda a: a[:0], x),
        }

    def reverse(self, walk, params, feedback, residuals, g):
        used = part(params if feedback is None or feedback["embedding"] is None else feedback, "embedding")
        dh = self.embedding.hidden_gradient(used, g)
        dh = Sequences(dh) if isinstance(residuals["like"], Sequences) else dh
        de, body = walk("body", part(params, "body"), part(feedback, "body"), residuals["body"], dh)
        trees = part(params, "embedding"), part(feedback, "embedding"), residuals["embedding"]
        _, embedding = walk("embedding", *trees, (values_of(de), g))
        return jax.tree.map(lambda _: None, residuals["like"]), {"embedding": embedding, "body": body}

    def _look_up(self, params, x):
        return with_values(x, self.embedding.look_up(params, values_of(x)))
