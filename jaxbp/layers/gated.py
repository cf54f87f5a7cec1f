"""Gated linear units: half of the features decide how much of the other half passes.

The last axis of x is two halves, x = [a, b], each of f features. With a nonlinearity h, element by element:

    y = h(a) ⊙ b              ∂J/∂a = g ⊙ b ⊙ h'(a)        ∂J/∂b = g ⊙ h(a)

    ReGLU     h = relu        SwiGLU    h = silu        GeGLU    h = gelu
    GLU       h = σ, with the halves the other way round: y = a ⊙ σ(b)

The gate is the half inside h. In GLU it is the second half, as in `torch.nn.functional.glu`. In the others it is the
first, as in LLaMA (gate_proj before up_proj) and T5 (wi_0 before wi_1), whose two weights are here one of 2f columns,
side by side: Serial(Dense(2 * hidden), SwiGLU(), Dense(features)) is a feed-forward network.

The residual is ∂y/∂x = [b ⊙ h'(a), h(a)], one array of x's size: then the backward is one product, and computes no h
again.

Sources: Dauphin et al., arXiv 1612.08083 (GLU); Shazeer, arXiv 2002.05202 (the others, eq. 5).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbp.core.errors import LayerError, require_floating
from jaxbp.core.layer import Layer
from jaxbp.core.text import describe
from jaxbp.layers.activation import GELU, SiLU


class _Gated(Layer):
    """What they share: [..., 2f] to [..., f]; a subclass gives h(a) and h'(a) by `_gate`."""

    position_wise = True
    gate_is_first = True

    def forward(self, params, x: Array, rng=None):
        require_floating(self, x)
        if x.ndim < 2 or x.shape[-1] % 2:
            raise LayerError(self, f"expected [examples, ..., features], two halves of features, got {describe(x)}")
        first, second = jnp.split(x, 2, -1)
        gate, through = (first, second) if self.gate_is_first else (second, first)
        h, slope = self._gate(gate)
        slopes = (through * slope, h) if self.gate_is_first else (h, through * slope)
        return h * through, jnp.concatenate(slopes, -1)

    def input_gradient(self, params, slopes, g: Float[Array, "*n f"]) -> Float[Array, "*n f+f"]:
        return jnp.concatenate([g, g], -1) * slopes


@dataclass(frozen=True)
class GLU(_Gated):
    """The first half times σ of the second."""

    gate_is_first = False

    def _gate(self, b):
        y = jax.nn.sigmoid(b)
        return y, y * (1 - y)


@dataclass(frozen=True)
class SwiGLU(_Gated):
    """`SiLU` of the first half times the second."""

    def _gate(self, a):
        return SiLU().forward((), a)


@dataclass(frozen=True)
class GeGLU(_Gated):
    """`GELU` of the first half times the second.

    Args:
        approximate: take GELU's approximation by tanh, as T5 does.
    """

    approximate: bool = False

    def _gate(self, a):
        return GELU(self.approximate).forward((), a)


@dataclass(frozen=True)
class ReGLU(_Gated):
    """`ReLU` of the first half times the second."""

    def _gate(self, a):
        return jax.nn.relu(a), (a > 0).astype(a.dtype)
