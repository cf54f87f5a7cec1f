"""Transformers: blocks as plain functions that return layers, made of nothing that a user could not write down as well.

    encoder    self-attention, then a network on each position
    decoder    causal self-attention, attention on a memory, then a network on each position

Positions are told apart by `rotary`, or by a layer in front: LearnedPositions(length) for arrays, MapValues around it
for `Sequences` and `Context`. A decoder ends with DropMemory(), which leaves the memory behind.

Source: Vaswani et al., arXiv 1706.03762, section 3.
"""

from jaxbp.combinators import Serial
from jaxbp.core.layer import Layer
from jaxbp.layers.activation import GELU
from jaxbp.layers.attention.multi_head import MultiHeadAttention
from jaxbp.layers.attention.sublayer import Sublayer
from jaxbp.layers.dense import Dense
from jaxbp.layers.dropout import Dropout
from jaxbp.layers.sequences import MapValues


def encoder_block(
    features: int,
    heads: int,
    hidden: int | None = None,
    *,
    causal: bool = False,
    dropout: float = 0.0,
    post_norm: bool = False,
    activation: Layer = GELU(),
    rotary: bool = False,
    bias: bool = True,
) -> Serial:
    """A block for x [n, t, features] or `Sequences`; with `causal`, that of a language model.

    Args:
        features: of x.
        heads: of the attention.
        hidden: units of the network on each position; 4 features unless given.
        causal: position t looks at s ≤ t alone.
        dropout: of the attention's weights, of hidden units and of what is added to x.
        post_norm: normalise after each sum, not before each body.
        activation: of the hidden units.
        rotary: see `MultiHeadAttention`.
        bias: whether dense layers have one.
    """
    attention = MultiHeadAttention(features, heads, causal, dropout=dropout, rotary=rotary, bias=bias)
    around = {"post_norm": post_norm, "dropout": dropout}
    return Serial(
        Sublayer(attention, **around),
        Sublayer(MapValues(feed_forward(features, hidden, activation, dropout, bias)), **around),
    )


def decoder_block(
    features: int,
    heads: int,
    hidden: int | None = None,
    *,
    dropout: float = 0.0,
    post_norm: bool = False,
    activation: Layer = GELU(),
    rotary: bool = False,
    bias: bool = True,
) -> Serial:
    """A block for `Context`(x, memory), causal in x. Arguments as for `encoder_block`."""
    around = {"post_norm": post_norm, "dropout": dropout}

    def attention(**kind):
        return MultiHeadAttention(features, heads, dropout=dropout, bias=bias, **kind)

    return Serial(
        Sublayer(attention(causal=True, rotary=rotary), **around),
        Sublayer(attention(), cross=True, **around),
        Sublayer(MapValues(feed_forward(features, hidden, activation, dropout, bias)), **around),
    )


def feed_forward(features: int, hidden: int | None, activation: Layer, dropout: float, bias: bool = True) -> Serial:
    """The network on each position: features -> hidden -> features."""
    drop = [Dropout(dropout)] if dropout else []
    return Serial(Dense(4 * features if hidden is None else hidden, bias), activation, *drop, Dense(features, bias))
