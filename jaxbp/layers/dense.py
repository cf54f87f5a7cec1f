"""Dense layer: an affine map of the last axis, y = x W + b.

Let n run over all leading axes (examples first), i over inputs, o over outputs, and g = ∂J/∂y.
From y[n,o] = Σ_i x[n,i] W[i,o] + b[o]:

    ∂J/∂x[n,i] = Σ_o g[n,o] W[i,o]      the error travels back through the transposed weights
    ∂J/∂W[i,o] = Σ_n x[n,i] g[n,o]      what came in, times the error that came back
    ∂J/∂b[o]   = Σ_n g[n,o]

The residual is x alone: W reaches `input_gradient` as an argument, so other weights may be sent there.
With x a row this is the transpose of the textbook's z = W a + b, δ(l) = (W(l+1))ᵀ δ(l+1).

Source: Rumelhart, Hinton & Williams, Nature 323 (1986).
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxbp.core.errors import LayerError, require_floating, require_params, require_positive
from jaxbp.core.layer import ArrayLike, Layer, Params
from jaxbp.core.numerics import contract
from jaxbp.core.text import describe
from jaxbp.initializers import Initializer, LeCun


@dataclass(frozen=True)
class Dense(Layer):
    """Maps [n, ..., inputs] to [n, ..., outputs].

    Args:
        outputs: number of output features, positive.
        bias: whether to add b, which begins at zero.
        initializer: draws the weight: LeCun(), Glorot(), He(), or a function (key, shape, dtype).
    """

    position_wise = True

    outputs: int
    bias: bool = True
    initializer: Initializer = LeCun()

    def __post_init__(self):
        require_positive(self, outputs=self.outputs)

    def init(self, key: PRNGKeyArray, x: ArrayLike) -> Params:
        self._require_input(x)
        weight = self.initializer(key, (x.shape[-1], self.outputs), x.dtype)
        return {"weight": weight, "bias": jnp.zeros(self.outputs, x.dtype)} if self.bias else {"weight": weight}

    def forward(self, params: Params, x: Array, rng: PRNGKeyArray | None = None):
        """Returns y [n, ..., outputs] and the residual x."""
        self._require_input(x)
        self.require_params(params, x)
        weight = params["weight"]
        y = contract("...i,io->...o", x, weight, dtype=jnp.result_type(x, weight))
        return (y + params["bias"] if self.bias else y), x

    def input_gradient(self, params: Params, x, g: Float[Array, "*n outputs"]) -> Float[Array, "*n inputs"]:
        return contract("...o,io->...i", g, params["weight"], dtype=x.dtype)

    def param_gradient(self, params: Params, x, g: Float[Array, "*n outputs"]) -> Params:
        rows, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, self.outputs)  # XLA would copy x if it had more axes
        weight = contract("ni,no->io", rows, g, dtype=params["weight"].dtype)
        if not self.bias:
            return {"weight": weight}
        return {"weight": weight, "bias": jnp.sum(g, 0).astype(params["bias"].dtype)}

    def affine(self, params: Params, x, g: Float[Array, "n *t outputs"]):
        """x [n, positions, inputs] and g [n, positions, outputs], one position where x is [n, inputs]."""
        return x.reshape(x.shape[0], -1, x.shape[-1]), g.reshape(g.shape[0], -1, g.shape[-1])

    def _require_input(self, x):
        require_floating(self, x)
        if len(x.shape) < 2:
            raise LayerError(self, f"expected [examples, ..., inputs], got {describe(x)}; one example alone is x[None]")
        if x.shape[-1] == 0:
            raise LayerError(self, f"expected at least one input feature, got {describe(x)}")

    def require_params(self, params, x):
        """Raises unless these are the parameters of this layer, for inputs like x."""
        shapes = {"weight": ("inputs", self.outputs)} | ({"bias": (self.outputs,)} if self.bias else {})
        require_params(self, params, shapes)
        weight = params["weight"]
        if weight.shape[0] != x.shape[-1]:
            raise LayerError(
                self,
                f"expected {weight.shape[0]} input features, for the weight is {describe(weight)}, "
                f"got {x.shape[-1]} in {describe(x)}",
            )
