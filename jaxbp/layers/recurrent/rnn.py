"""The plain recurrent network, as Elman's: the state is what the tanh layer said one time before.

With z = x W and p = h[n,t-1] U + b (see `bptt.py`), all element by element:

    h[n,t] = tanh(z[n,t] + p[n,t])

    δ = γ = ∂h (1 - h²)      and the backward pass to h[n,t-1] leads through p alone

A step keeps the slope 1 - h².

Through t times a delta is multiplied by U and the slope t times: it vanishes, or, with a large U, explodes.

Sources: Elman, Finding Structure in Time, Cognitive Science 14 (1990); Bengio, Simard & Frasconi, IEEE Trans. Neural
Networks 5 (1994). As torch.nn.RNN with b = bias_ih + bias_hh.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxbp.layers.recurrent.base import Recurrent


@dataclass(frozen=True)
class RNN(Recurrent):
    """A plain recurrent layer with tanh; for its arguments see `Recurrent`."""

    def step(self, z, p, state):
        h = jnp.tanh(z + p)
        return (h,), (1 - h * h,)

    def step_back(self, kept, before, d):
        (slope,), (dh,) = kept, d
        delta = dh * slope
        return (delta,), delta, (0.0,)
