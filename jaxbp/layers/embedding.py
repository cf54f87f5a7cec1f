"""Embedding: each token has a row of numbers, which the layer looks up.

Let n, t run over examples and positions, w over the vocabulary, f over features, and g = ∂J/∂y. With the one-hot rows
o[n,t,w] = [x[n,t] = w] it is a dense layer, which is not how it is computed:

    y[n,t,f] = W[x[n,t], f] = Σ_w o[n,t,w] W[w,f]        ∂J/∂W[w,f] = Σ_{n,t : x[n,t] = w} g[n,t,f]

So the gradient touches the rows of the tokens that occurred, and each gets the errors of all its places. Tokens are
integers: there is no ∂J/∂x. The residual is x.

A tied embedding also compares what the network made of the tokens, h[n,s,f], with every row:

    z[n,s,w] = Σ_f h[n,s,f] W[w,f]         ∂J/∂h[n,s,f] = Σ_w ∂J/∂z[n,s,w] W[w,f]       ∂J/∂W[w,f] = Σ_{n,s} ∂J/∂z h

Both uses have factors a[w] and g[f]: (o, ∂J/∂y) and (∂J/∂z, h). Side by side they are the positions of one layer that
is used twice, so per-example norms and Kronecker factors have the cross terms of the two uses.

Sources: Bengio et al., JMLR 3 (2003); Press & Wolf, arXiv 1608.05859 (tied).
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxbp.core.errors import LayerError, require_params, require_positive
from jaxbp.core.layer import ArrayLike, Layer, Params
from jaxbp.core.lazy_logits import LazyLogits
from jaxbp.core.numerics import accumulation_dtype, contract, is_concrete, is_floating
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
    """The same rows at both ends of a network: of integers it gives the rows, of floats the products with every row.

    Maps tokens [n, t] to [n, t, features], and hidden [n, s, features] to logits [n, s, vocabulary]. A composite calls
    it twice (see `LanguageModel`).

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

    def stepwise(self, length):
        return replace(self, full_logits=True)

    def forward(self, params, x, rng=None):
        require_table(self, params)
        weight = params["weight"]
        if not is_floating(x):
            require_tokens(self, x)
            return rows_of(weight, x), x
        if x.shape[-1] != self.features:
            raise LayerError(self, f"expected hidden [examples, ..., {self.features}], got {describe(x)}")
        if not self.full_logits:
            return LazyLogits(x, weight), x
        return contract("...f,wf->...w", x, weight, dtype=jnp.result_type(x, weight)), x

    def input_gradient(self, params, x, g):
        if not is_floating(x):
            return None
        if not self.full_logits:
            return g.hidden
        return contract("...w,wf->...f", g, params["weight"], dtype=x.dtype)

    def param_gradient(self, params, x, g):
        weight = params["weight"]
        if not is_floating(x):
            total = add_rows(x, g, wide_zeros(weight))
        elif self.full_logits:
            total = contract("...w,...f->wf", g, x, dtype=wide_zeros(weight).dtype)
        else:
            total = g.weight
        return {"weight": total.astype(weight.dtype)}

    def affine(self, params, x, g):
        """Of tokens, one-hot rows and g; of hidden features, g and these: [n, positions, vocabulary and features]."""
        if not is_floating(x):
            return one_hot(x, self.vocabulary, g.dtype), g.reshape(g.shape[0], -1, self.features)
        if not self.full_logits:
            return None
        return g.reshape(g.shape[0], -1, self.vocabulary), x.reshape(x.shape[0], -1, self.features)


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
    return jnp.zeros(weight.shape, accumulation_dtype(weight))


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
    """Raises unless these are the parameters of an embedding."""
    require_params(layer, params, {"weight": (layer.vocabulary, layer.features)})
