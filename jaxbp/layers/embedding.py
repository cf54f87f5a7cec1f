"""Embedding: each token has a row of numbers, which the layer looks up.

Let n, t run over examples and positions, w over the vocabulary, f over features, and g = ∂J/∂y. With the one-hot rows
o[n,t,w] = [x[n,t] = w] it is a dense layer, which is not how it is computed:

    y[n,t,f] = W[x[n,t], f] = Σ_w o[n,t,w] W[w,f]        ∂J/∂W[w,f] = Σ_{n,t : x[n,t] = w} g[n,t,f]

So the gradient touches the rows of the tokens that occurred, and each gets the errors of all its places. Tokens are
integers: there is no ∂J/∂x. The residual is x.

A tied embedding is used twice: it looks tokens up, and it compares what the network made of them, h[n,s,f], with every
row. Its gradient is the sum of both uses' gradients; with g = (∂J/∂y, ∂J/∂z),

    z[n,s,w] = Σ_f h[n,s,f] W[w,f]                       ∂J/∂h[n,s,f] = Σ_w ∂J/∂z[n,s,w] W[w,f]
    ∂J/∂W[w,f] = Σ_{n,t} o[n,t,w] ∂J/∂y[n,t,f] + Σ_{n,s} ∂J/∂z[n,s,w] h[n,s,f]

which are the positions of both uses in one row: factors a = (o, ∂J/∂z) and g = (∂J/∂y, h). So per-example norms and
Kronecker factors have the cross terms of the two uses.

Sources: Bengio et al., JMLR 3 (2003); Press & Wolf, arXiv 1608.05859 (tied).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxbp.core.errors import LayerError, require_positive
from jaxbp.core.layer import ArrayLike, Layer, Params
from jaxbp.core.lazy_logits import LazyLogits
from jaxbp.core.numerics import contract, is_concrete
from jaxbp.core.text import describe
from jaxbp.initializers import Initializer, Normal


@dataclass(frozen=True)
class Embedding(Layer):
    """Maps tokens [n, ...], integers from 0 to vocabulary - 1, to [n, ..., features].

    Outside jit a token out of range is refused; under jit its row is NaN, so that it shows.

    Args:
        vocabulary: how many tokens there are.
        features: numbers a token.
        initializer: draws the weight [vocabulary, features].
    """

    position_wise = True

    vocabulary: int
    features: int
    initializer: Initializer = Normal()

    def __post_init__(self):
        require_positive(self, vocabulary=self.vocabulary, features=self.features)

    def init(self, key: PRNGKeyArray, x: ArrayLike) -> Params:
        require_tokens(self, x)
        return {"weight": self.initializer(key, (self.vocabulary, self.features), jnp.float32)}

    def forward(self, params: Params, x: Int[Array, "n *t"], rng: PRNGKeyArray | None = None):
        """Returns y [n, ..., features] and the residual x."""
        require_tokens(self, x)
        require_table(self, params)
        return rows_of(params["weight"], x), x

    def input_gradient(self, params: Params, x, g: Float[Array, "n *t f"]) -> None:
        return None

    def param_gradient(self, params: Params, x, g: Float[Array, "n *t f"]) -> Params:
        return {"weight": add_rows(x, g, wide_zeros(params["weight"])).astype(params["weight"].dtype)}

    def affine(self, params: Params, x, g: Float[Array, "n *t f"]):
        """One-hot rows [n, positions, vocabulary] and g [n, positions, features]."""
        return one_hot(x, self.vocabulary, g.dtype), g.reshape(g.shape[0], -1, self.features)


@dataclass(frozen=True)
class TiedEmbedding(Layer):
    """Maps (tokens, hidden) to (embedded, logits): the same rows at both ends of a network.

    tokens: [n, t], or a tree of such arrays; embedded: likewise with features. hidden: [n, s, features]; logits: [n, s,
    vocabulary]. See `attention/tied_models.py` for the network between the two ends.

    Args:
        vocabulary: how many tokens there are.
        features: numbers a token.
        full_logits: give the logits; else `LazyLogits(hidden, weight)`, which `LinearCrossEntropy` multiplies in parts.
        initializer: draws the weight [vocabulary, features].
    """

    position_wise = True

    vocabulary: int
    features: int
    full_logits: bool = True
    initializer: Initializer = Normal()

    def __post_init__(self):
        require_positive(self, vocabulary=self.vocabulary, features=self.features)

    def init(self, key, x):
        return {"weight": self.initializer(key, (self.vocabulary, self.features), jnp.float32)}

    def forward(self, params, x, rng=None):
        tokens, hidden = x
        require_table(self, params)
        jax.tree.map(lambda x: require_tokens(self, x), tokens)
        weight = params["weight"]
        embedded = jax.tree.map(lambda x: rows_of(weight, x), tokens)
        if not self.full_logits:
            return (embedded, LazyLogits(hidden, weight)), x
        return (embedded, contract("...f,wf->...w", hidden, weight, dtype=jnp.result_type(hidden, weight))), x

    def input_gradient(self, params, x, g):
        (tokens, hidden), (_, above) = x, g
        dh = (
            contract("...w,wf->...f", above, params["weight"], dtype=hidden.dtype) if self.full_logits else above.hidden
        )
        return jax.tree.map(lambda _: None, tokens), dh

    def param_gradient(self, params, x, g):
        (tokens, hidden), (below, above) = x, g
        weight = params["weight"]
        wide = jnp.promote_types(weight.dtype, jnp.float32)
        total = contract("...w,...f->wf", above, hidden, dtype=wide) if self.full_logits else above.weight.astype(wide)
        for x, g in zip(jax.tree.leaves(tokens), jax.tree.leaves(below), strict=True):
            total = add_rows(x, g, total)
        return {"weight": total.astype(weight.dtype)}

    def affine(self, params, x, g):
        """Both uses' positions side by side, [n, positions, vocabulary] and [n, positions, features]."""
        if not self.full_logits:
            return None
        (tokens, hidden), (below, above) = x, g
        flat = lambda array: array.reshape(array.shape[0], -1, array.shape[-1])  # noqa: E731
        ones = [one_hot(x, self.vocabulary, above.dtype) for x in jax.tree.leaves(tokens)]
        return (
            jnp.concatenate([*ones, flat(above)], 1),
            jnp.concatenate([*map(flat, jax.tree.leaves(below)), flat(hidden)], 1),
        )


def rows_of(weight: Float[Array, "w f"], x: Int[Array, "*n"]) -> Float[Array, "*n f"]:
    """The rows of the tokens, NaN for a token out of range."""
    return weight.at[from_zero(x, weight)].get(mode="fill", fill_value=jnp.nan)


def add_rows(x: Int[Array, "*n"], g: Float[Array, "*n f"], total: Float[Array, "w f"]) -> Float[Array, "w f"]:
    """total, with each g added to its token's row."""
    return total.at[from_zero(x, total)].add(g.astype(total.dtype), mode="drop")


def from_zero(x: Int[Array, "*n"], table: Float[Array, "w f"]) -> Int[Array, "*n"]:
    """Tokens below zero moved out of range: as indices they would count from the end."""
    return jnp.where(x < 0, table.shape[0], x)


def wide_zeros(weight: Array) -> Array:
    """Where a gradient is added up: thousands of places may share a row."""
    return jnp.zeros(weight.shape, jnp.promote_types(weight.dtype, jnp.float32))


def one_hot(x: Int[Array, "n *t"], vocabulary: int, dtype: Any) -> Float[Array, "n positions w"]:
    """One row a position."""
    return jax.nn.one_hot(x.reshape(x.shape[0], -1), vocabulary, dtype=dtype)


def require_tokens(layer: Embedding | TiedEmbedding, x: ArrayLike) -> None:
    """Refuses what are no tokens; values are looked at outside jit only."""
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.integer) or len(x.shape) < 1:
        raise LayerError(layer, f"expected integer tokens [examples, ...], got {describe(x)}")
    if is_concrete(x):
        wrong = np.asarray(x)[(np.asarray(x) < 0) | (np.asarray(x) >= layer.vocabulary)]
        if wrong.size:
            raise LayerError(
                layer, f"token {wrong[0]} is out of range: the vocabulary has tokens 0 to {layer.vocabulary - 1}"
            )


def require_table(layer: Embedding | TiedEmbedding, params: Params) -> None:
    """Refuses parameters of another layer."""
    expected = (layer.vocabulary, layer.features)
    if not isinstance(params, dict) or set(params) != {"weight"} or params["weight"].shape != expected:
        raise LayerError(
            layer,
            f"expected parameters {{weight: {list(expected)}}}, got {describe(params)}; "
            "do they come from this model's init?",
        )
