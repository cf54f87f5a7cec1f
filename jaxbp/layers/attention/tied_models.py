"""Models for text whose words are the same at both ends.

    language model      e = W[x]                  h = body(e)                                  z = h Wᵀ
    encoder–decoder     (d, e) = W[x], W[y]       h = decoder(e, memory), memory = encoder(d)  z = h Wᵀ

W is one layer, a `TiedEmbedding`, called at every place where it is used. So its gradient is a sum: what comes by the
logits z at the top, and what comes back through the network to the rows that were looked up.

Source: Press & Wolf, arXiv 1608.05859.
"""

from dataclasses import dataclass

from jaxbp.core.composite import Composite
from jaxbp.core.errors import LayerError
from jaxbp.core.layer import Layer
from jaxbp.core.stepwise import Once
from jaxbp.initializers import Initializer, Normal
from jaxbp.layers.embedding import TiedEmbedding
from jaxbp.layers.sequences import Context, Sequences, values_of, with_values


@dataclass(frozen=True)
class LanguageModel(Composite):
    """Maps tokens [n, t], or `Sequences` of them, to logits [n, t, vocabulary] of the token that follows.

    Args:
        vocabulary: how many tokens there are.
        features: numbers a token.
        body: from [n, t, features] to [n, t, features]: positions, causal blocks, a last normalisation.
        full_logits: give the logits; else `LazyLogits`, for `LinearCrossEntropy`.
        initializer: draws the embedding.
    """

    vocabulary: int
    features: int
    body: Layer
    full_logits: bool = True
    initializer: Initializer = Normal()

    def make_children(self):
        tied = TiedEmbedding(self.vocabulary, self.features, self.full_logits, self.initializer)
        return {"embedding": tied, "body": self.body}

    def wire(self, call, x):
        embedded = with_values(x, call("embedding", values_of(x)))
        return call("embedding", values_of(call("body", embedded)))


@dataclass(frozen=True)
class EncoderDecoder(Composite):
    """Maps (source, target), tokens [n, s] and [n, t] or `Sequences` of them, to logits [n, t, vocabulary].

    Args:
        vocabulary: how many tokens there are, in both languages together.
        features: numbers a token.
        encoder: from the embedded source to a memory.
        decoder: from a `Context` of the embedded target and that memory to [n, t, features].
        full_logits: give the logits; else `LazyLogits`, for `LinearCrossEntropy`.
        initializer: draws the embedding.
    """

    vocabulary: int
    features: int
    encoder: Layer
    decoder: Layer
    full_logits: bool = True
    initializer: Initializer = Normal()

    def make_children(self):
        tied = TiedEmbedding(self.vocabulary, self.features, self.full_logits, self.initializer)
        return {"embedding": tied, "encoder": self.encoder, "decoder": self.decoder}

    def stepwise(self, length):
        children = {name: child.stepwise(length) for name, child in self.children.items() if name != "encoder"}
        return self.rebuild(self.children | {"encoder": Once(self.encoder)} | children)

    def wire(self, call, x):
        if not isinstance(x, tuple) or isinstance(x, Sequences) or len(x) != 2:
            raise LayerError(self, f"expected (source, target), got {type(x).__name__}")
        source, target = (with_values(tokens, call("embedding", values_of(tokens))) for tokens in x)
        return call("embedding", values_of(call("decoder", Context(target, call("encoder", source)))))
