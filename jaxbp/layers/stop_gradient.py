"""An input that gets no gradient: a mask, an adjacency matrix, a frozen table, the branch of a target network.

    y = x          ∂J/∂x = 0, whatever ∂J/∂y is

This is not the derivative of the identity, so `forward` says it too (`lax.stop_gradient`): the gradient is then the
vector-Jacobian product of `forward`, as law 1 asks and `check_gradients` confirms. Finite differences know nothing of
it, so `check_layer`, which takes them too, refuses this layer. Under jit XLA removes what would have computed ∂J/∂y for
this layer alone. The residuals are the shapes of x, as arrays without features, x[:, None][:, :0].

    Serial(Parallel(Select("nodes"), Serial(Select("adjacency"), StopGradient())), Mix())

A layer of one's own that takes such an input beside others does the same in itself: `lax.stop_gradient` around it in
`forward`, zeros for it in `input_gradient`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

from jaxbp.core.layer import Layer
from jaxbp.core.numerics import is_floating


@dataclass(frozen=True)
class StopGradient(Layer):
    """The identity, on an array or a tree of arrays, whose input gradient is zero (None for integers)."""

    position_wise = True

    def forward(self, params, x: PyTree, rng=None):
        return jax.tree.map(lax.stop_gradient, x), jax.tree.map(lambda a: a[:, None][:, :0], x)

    def input_gradient(self, params, shapes, g):
        return jax.tree.map(
            lambda a: jnp.zeros((a.shape[0], *a.shape[2:]), a.dtype) if is_floating(a) else None, shapes
        )
