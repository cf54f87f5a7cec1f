"""Long short-term memory: a cell c that gates write to, keep and read from, and no weight on its way through time.

With z = x W and p = h[n,t-1] U + b (see `bptt.py`), each in four blocks i, f, g, o of `outputs` columns, and σ
the logistic function; all element by element:

    i = σ(z_i + p_i)         f = σ(z_f + p_f)
    g = tanh(z_g + p_g)      o = σ(z_o + p_o)
    c[n,t] = f c[n,t-1] + i g
    h[n,t] = o tanh(c[n,t])

Back, from ∂h and what ∂c came with from t+1:

    ∂c += ∂h o (1 - tanh²(c))
    δ_i = ∂c g i (1 - i)     δ_f = ∂c c[n,t-1] f (1 - f)
    δ_g = ∂c i (1 - g²)      δ_o = ∂h tanh(c) o (1 - o)      γ = δ
    ∂c[n,t-1] = ∂c f         and ∂h[n,t-1] through p alone

A step keeps the gates and c[n,t-1]; c[n,t] is one product and sum away. In the backward pass δ is written over the
gates, and over c[n,t-1], once it is read, h[n,t-1], which ∂J/∂U needs.

f begins near 1, with a bias of 1: what is not yet known to be useless is kept.

Sources: Hochreiter & Schmidhuber, Neural Computation 9 (1997); Gers, Schmidhuber & Cummins, Neural Computation 12
(2000), for the gate f; Jozefowicz, Zaremba & Sutskever, ICML (2015), for its bias. As torch.nn.LSTM with
b = bias_ih + bias_hh.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.layers.recurrent.base import Recurrent


@dataclass(frozen=True)
class LSTM(Recurrent):
    """Long short-term memory; for its arguments see `Recurrent`. Its state is (h, c)."""

    gates = 4
    beside = 1

    def zero_state(self, n, dtype):
        return (jnp.zeros((n, self.outputs), dtype),) * 2

    def init(self, key, x):
        params = super().init(key, x)
        forget, recurrent = slice(self.outputs, 2 * self.outputs), params["recurrent"]
        return params | {"recurrent": recurrent | {"bias": recurrent["bias"].at[forget].set(1)}}

    def step(self, z, p, state):
        _, c_before = state
        i, f, g, o = jnp.split(z + p, 4, -1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        c = f * c_before + i * g
        return (o * jnp.tanh(c), c), (jnp.concatenate([i, f, g, o], -1), c_before)

    def step_back(self, kept, before, d):
        (gates, c_before), (dh, dc) = kept, d
        i, f, g, o = jnp.split(gates, 4, -1)
        tanh_c = jnp.tanh(f * c_before + i * g)
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        delta = jnp.concatenate(
            [dc * g * i * (1 - i), dc * c_before * f * (1 - f), dc * i * (1 - g * g), dh * tanh_c * o * (1 - o)], -1
        )
        return (delta, before), delta, (0.0, dc * f)

    def hidden_before(self, kept, written):
        return written[1]
