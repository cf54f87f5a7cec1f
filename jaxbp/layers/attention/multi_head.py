"""Multi-head attention: several attentions side by side, each in a space of its own, made of layers that are known.

    q, k, v = x W_q, m W_k, m W_v         dense layers; m = x (self-attention) or a memory (cross-attention)
    y       = attention(q, k, v) W_o      with features cut into heads

The delta comes back through W_o, is cut into heads, goes through attention, and by the three dense layers to x and m;
where m = x the three parts add up. As the weights lie in dense layers, all that is known of dense layers
(per-example norms, Kronecker factors, feedback) is known of them.

Source: Vaswani et al., arXiv 1706.03762, section 3.2.2.
"""

from dataclasses import dataclass

from jaxbp.core.composite import Composite
from jaxbp.core.errors import require_positive
from jaxbp.initializers import Glorot, Initializer
from jaxbp.layers.attention.dot_product import Attention, Heads, PlainAttention
from jaxbp.layers.attention.heads import JoinHeads, SplitHeads
from jaxbp.layers.attention.kv_cache import StepwiseAttention
from jaxbp.layers.attention.positions import RotaryPositions
from jaxbp.layers.dense import Dense
from jaxbp.layers.sequences import Context, Sequences, values_of, with_values


@dataclass(frozen=True)
class MultiHeadAttention(Composite):
    """Maps x [n, t, features], `Sequences`, or a `Context`, to values like x's.

    Args:
        features: of x and of the output.
        heads: how many attentions; they divide the features.
        causal: position t looks at s ≤ t alone.
        heads_per_group: how many heads share one head of keys and values (grouped queries), a divisor of heads.
        dropout: of the attention's weights.
        rotary: tell positions apart by rotating queries and keys (`RotaryPositions`).
        rotary_base: the θ of these rotations; larger for longer texts.
        bias: whether the dense layers have one.
        keep_weights: keep the weights (`PlainAttention`), to look at them.
        initializer: of the dense layers' weights.
        head_size: features of a head; features / heads unless given.
        soft_cap: no attention score grows beyond it, if given (`Attention`).
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
    rotary_base: float = 10000.0
    head_size: int | None = None
    soft_cap: float | None = None

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
        return self.head_size or self.features // self.heads

    def make_children(self):
        def dense(outputs):
            return Dense(outputs, self.bias, self.initializer)

        rotary = {"rotate": RotaryPositions(self.rotary_base)} if self.rotary else {}
        attention = PlainAttention if self.keep_weights else Attention
        return {
            "query": dense(self.heads * self.size),
            "key": dense(self.heads // self.heads_per_group * self.size),
            "value": dense(self.heads // self.heads_per_group * self.size),
            "split": SplitHeads(self.size),
            **rotary,
            "attention": attention(self.causal, self.dropout, self.soft_cap),
            "join": JoinHeads(),
            "output": dense(self.features),
        }

    def stepwise(self, length):
        return StepwiseAttention(self, length)

    def wire(self, call, x):
        x, memory, mask = x if isinstance(x, Context) else Context(x)
        seen = x if memory is None else memory
        q = call("split", call("query", values_of(x)))
        k, v = (call("split", call(name, values_of(seen))) for name in ("key", "value"))
        if self.rotary:
            q, k = call("rotate", q), call("rotate", k)
        lengths = seen.lengths if isinstance(seen, Sequences) else None
        y = call("attention", Heads(q, k, v, mask, lengths))
        return with_values(x, call("output", call("join", y)))
