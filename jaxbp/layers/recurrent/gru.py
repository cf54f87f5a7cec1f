"""The gated recurrent unit: one gate says how much of the state stays, another how much of it the candidate sees.

The variant of cuDNN, PyTorch and Keras, in which the reset gate acts behind the recurrent weights (in the first paper
it acts before them), so that one matmul serves all three blocks. With z = x W + b and p = h[n,t-1] U + b' (see
`bptt.py`), each in three blocks r, u, m of `outputs` columns; all element by element:

    r = σ(z_r + p_r)         reset
    u = σ(z_u + p_u)         update
    m = tanh(z_m + r p_m)    the candidate
    h[n,t] = (1 - u) m + u h[n,t-1]

Back, from ∂h:

    δ_m = ∂h (1 - u) (1 - m²)
    δ_u = ∂h (h[n,t-1] - m) u (1 - u)      γ_u = δ_u
    δ_r = δ_m p_m r (1 - r)                γ_r = δ_r       γ_m = δ_m r
    ∂h[n,t-1] = ∂h u                       and through p

A step keeps r, u, m and p_m. As γ differs from δ, b' is no second b: it has a gradient of its own, Σ γ.

Sources: Cho et al., arXiv 1406.1078; Appleyard et al., arXiv 1604.01946 (this variant). As torch.nn.GRU, whose r, z, n
are r, u, m; W and b are weight_ih (transposed) and bias_ih, U and b' are weight_hh (transposed) and bias_hh.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbp.core.numerics import contract
from jaxbp.layers.dense import Dense
from jaxbp.layers.recurrent.base import Recurrent


@dataclass(frozen=True)
class GRU(Recurrent):
    """The gated recurrent unit; for its arguments see `Recurrent`."""

    gates = 3
    beside = 1
    input_bias = True

    def step(self, z, p, state):
        (before,), m_at = state, 2 * self.outputs
        z_m, p_m = z[:, m_at:], p[:, m_at:]
        gates = jax.nn.sigmoid(z[:, :m_at] + p[:, :m_at])
        r, u = jnp.split(gates, 2, -1)
        m = jnp.tanh(z_m + r * p_m)
        return ((1 - u) * m + u * before,), (jnp.concatenate([gates, m], -1), p_m)

    def step_back(self, kept, before, d):
        (gates, p_m), (dh,) = kept, d
        r, u, m = jnp.split(gates, 3, -1)
        d_m = dh * (1 - u) * (1 - m * m)
        d_u = dh * (before - m) * u * (1 - u)
        d_r = d_m * p_m * r * (1 - r)
        gamma_m = d_m * r
        return (
            (jnp.concatenate([d_r, d_u, d_m], -1), gamma_m),
            jnp.concatenate([d_r, d_u, gamma_m], -1),
            (dh * u,),
        )

    def make_children(self):
        children = super().make_children()
        return children | {"recurrent": RecurrentDense(**vars(children["recurrent"]))}

    def hidden_deltas(self, written):
        return Deltas(*written)


class Deltas(NamedTuple):
    """γ [n, t, 3 h] in two parts: δ, whose first two blocks are those of γ, and γ_m."""

    delta: Any
    gamma_m: Any

    def joined(self) -> Float[Array, "n t k"]:
        """γ as one array."""
        return jnp.concatenate([self.delta[..., : -self.gamma_m.shape[-1]], self.gamma_m], -1)


@dataclass(frozen=True)
class RecurrentDense(Dense):
    """A Dense layer whose delta may come in two parts: to put all times of γ together takes longer than what it saves.

    Its gradient is made of δ and of γ_m, of which the columns of δ_m are left out.
    """

    def input_gradient(self, params, x, g):
        return super().input_gradient(params, x, g.joined() if isinstance(g, Deltas) else g)

    def param_gradient(self, params, x, g):
        if not isinstance(g, Deltas):
            return super().param_gradient(params, x, g)
        size, x, delta, gamma_m = g.gamma_m.shape[-1], *(a.reshape(-1, a.shape[-1]) for a in (x, *g))
        halves = [contract("ni,no->io", x, part, dtype=params["weight"].dtype) for part in (delta, gamma_m)]
        sums = [jnp.sum(part, 0).astype(params["bias"].dtype) for part in (delta, gamma_m)]
        return {
            name: jnp.concatenate([whole[..., :-size], last], -1)
            for name, (whole, last) in {"weight": halves, "bias": sums}.items()
        }

    def affine(self, params, x, g):
        return super().affine(params, x, g.joined() if isinstance(g, Deltas) else g)
