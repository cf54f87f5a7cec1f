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

import jax
import jax.numpy as jnp

from jaxbp.layers.recurrent.base import Recurrent
from jaxbp.layers.recurrent.bptt import Recurrence


@dataclass(frozen=True)
class GRURecurrence(Recurrence):
    """The state is (h,)."""

    gates = 3
    beside = 1

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

    def hidden_deltas(self, written):
        delta, gamma_m = written
        return jnp.concatenate([delta[..., : 2 * self.outputs], gamma_m], -1)

    def param_gradient(self, params, kept, g):
        written, _ = self._back(params, kept, g)
        # From δ and γ_m: to put γ together, all times of it, would take longer than the columns of δ_m take, in vain.
        of_delta, of_m = (self.gradient(params, self._inputs(kept, written), gamma) for gamma in written)
        return jax.tree.map(lambda a, b: jnp.concatenate([a[..., : 2 * self.outputs], b], -1), of_delta, of_m)


@dataclass(frozen=True)
class GRU(Recurrent):
    """The gated recurrent unit; for its arguments see `Recurrent`."""

    cell = GRURecurrence
    input_bias = True
