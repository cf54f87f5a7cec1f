"""The protocol of a layer: y = f(x; θ), and the two gradients that the chain rule asks of it.

Let J be the loss, θ the parameters, and g = ∂J/∂y the gradient that arrives from above, the layer's delta:

    input_gradient   ∂J/∂x = (∂y/∂x)ᵀ g      the error travels on
    param_gradient   ∂J/∂θ = (∂y/∂θ)ᵀ g      the layer learns from it

The laws, each of them tested by `jaxbp.check_layer`:

1. The two gradients are the vector-Jacobian product of `forward`.
2. Residuals are a pytree of arrays that `forward` saves for the backward pass. They never contain parameters, which
   reach the backward functions as an argument: so other parameters may be sent there (feedback alignment).
3. The first axis counts examples. Parameter gradients sum over all leading axes; the loss alone owns the mean.
4. `rng=None` is evaluation, a key is training.
5. Gradients have the structure, shapes and dtypes of the parameters (zeros for running statistics); no parameters is
   `()`.
6. Integer inputs have no gradient: `None`.
7. Everything works under `jit`, `vmap` and `lax.scan`, in bfloat16, float32 and float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxbp.core.errors import LayerError, require_alive
from jaxbp.core.text import constructor_call

Params = PyTree  # a layer's parameters: a dict of arrays, () where there are none, tuples and dicts of these
ArrayLike = Any  # what has a shape and a dtype: a JAX array, a NumPy array, a jax.ShapeDtypeStruct


class Layer:
    """A frozen dataclass of hyperparameters with pure functions over pytrees; it holds no arrays.

    A layer without parameters needs `forward` and `input_gradient` only. Shapes below: n examples come first.

    children: the layers inside, by name, in forward order; a leaf has none.
    position_wise: whether, in evaluation, y[n, t] depends on x[n, t] alone, so that text can be generated with it.
    """

    position_wise = False
    children: Mapping[str, "Layer"] = MappingProxyType({})

    @property
    def mixes_examples(self) -> bool:
        """Whether an example's output depends on the other examples of the batch (batch normalisation)."""
        return False

    def init(self, key: PRNGKeyArray, x: ArrayLike) -> Params:
        """Draws parameters for inputs like x (an array or a ShapeDtypeStruct, [n, ...])."""
        return ()

    def forward(self, params: Params, x: PyTree, rng: PRNGKeyArray | None = None) -> tuple[PyTree, PyTree]:
        """Returns the outputs [n, ...] and the residuals, what the two gradients will need of this moment."""
        raise LayerError(self, "this layer doesn't define forward(params, x, rng) -> (y, residuals)")

    def __call__(self, params: Params, x: PyTree) -> PyTree:
        """The outputs alone, in evaluation: inference."""
        require_alive(params=params, x=x)
        return self.forward(params, jax.tree.map(jnp.asarray, x))[0]

    def input_gradient(self, params: Params, residuals: PyTree, g: PyTree) -> PyTree:
        """∂J/∂x, shaped like the input, from g = ∂J/∂y, shaped like the output."""
        raise LayerError(self, "this layer doesn't define input_gradient(params, residuals, g) -> ∂J/∂x")

    def param_gradient(self, params: Params, residuals: PyTree, g: PyTree) -> Params:
        """∂J/∂θ, the tree of params, from g = ∂J/∂y."""
        return ()

    def affine(self, params: Params, residuals: PyTree, g: PyTree) -> tuple[Array, Array] | None:
        """The factors a [n, positions, I] and g [n, positions, O] with ∂J/∂W = Σ_{n,t} a[n,t]ᵀ g[n,t], a matrix [I, O].

        For layers that are linear in a parameter "weight", W reshaped to [I, O]; a "bias" beside it has the gradient
        Σ_{n,t} g[n,t], as if a had one entry more, always 1. None: this layer has no such factors.
        """
        return None

    def stepwise(self, length: int) -> "Layer":
        """The layer for text that comes position by position, `length` in all, to generate with (see `stepwise.py`)."""
        if not self.position_wise:
            remedy = "if its positions don't depend on each other, say position_wise = True in its class"
            raise LayerError(
                self, f"text can't go through it position by position; {remedy}, else give it a stepwise(length)"
            )
        return self

    @property
    def statistics(self) -> tuple[str, ...]:
        """The names in params that are running statistics: they get zero gradient, no update and no weight decay."""
        return ()

    def refresh(self, params: Params, residuals: PyTree) -> Params:
        """The parameters with running statistics renewed by what a training step saw; pure."""
        return params

    def __str__(self) -> str:
        """The constructor call, defaults left out: Dense(128, bias=False)."""
        return constructor_call(self)


@dataclass(frozen=True)
class Site:
    """One leaf layer at the moment the reverse sweep passes: what a visit gets to see.

    path: the layer's name in the model, such as "2.body.1".
    layer: the layer; a `Shared` around it where it is used several times.
    g: its delta ∂J/∂y. Inside a `Repeat` params, residuals and g are those of one turn.
    """

    path: str
    layer: Layer
    params: Params
    residuals: PyTree
    g: PyTree
