"""The protocol of a layer: y = f(x; θ), and the two gradients that the chain rule asks of it.

Let J be the loss, θ the parameters, and g = ∂J/∂y the gradient that arrives from above, the layer's delta:

    input_gradient   ∂J/∂x = (∂y/∂x)ᵀ g      the error travels on
    param_gradient   ∂J/∂θ = (∂y/∂θ)ᵀ g      the layer learns from it

The laws, each of them tested by `jaxbp.check_layer`:

1. The two gradients are the vector-Jacobian product of `forward`.
2. Residuals are a pytree of arrays that `forward` keeps for the way back. They never contain parameters, which reach
   the backward functions as an argument: so other parameters may be sent there (feedback alignment).
3. The first axis counts examples. Parameter gradients sum over all leading axes; the loss alone owns the mean.
4. `rng=None` is evaluation, a key is training.
5. Gradients have the structure, shapes and dtypes of the parameters (zeros for running statistics); no parameters is
   `()`.
6. Integer inputs have no gradient: `None`.
7. Everything works under `jit`, `vmap` and `lax.scan`, in bfloat16, float32 and float64.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

Params = PyTree  # a layer's parameters: a dict of arrays, () where there are none, tuples and dicts of these
ArrayLike = Any  # what has a shape and a dtype: a JAX array, a NumPy array, a jax.ShapeDtypeStruct


class LayerError(ValueError, TypeError):
    """What a layer can't work with: it names the layer by its path, what was expected, what came, and what to do.

    Both a ValueError (wrong shape) and a TypeError (wrong dtype), so that callers need not know which is which.
    """

    def __init__(self, layer: "Layer", problem: str, path: tuple[str, ...] = ()):
        super().__init__(layer, problem, path)
        self.layer, self.problem, self.path = layer, problem, path

    def __str__(self) -> str:
        where = f'layer "{".".join(self.path)}", ' if self.path else ""
        return f"{where}{shorten(str(self.layer), 80)}: {self.problem}"


@contextmanager
def located(name: str) -> Iterator[None]:
    """Puts `name` in front of the path of an error that comes from inside; foreign errors get a note."""
    try:
        yield
    except LayerError as error:
        error.path = (name, *error.path)
        raise
    except Exception as error:
        error.add_note(f'  raised inside layer "{name}"')
        raise


class Layer:
    """A frozen dataclass of hyperparameters with pure functions over pytrees; it holds no arrays.

    A layer without parameters needs `forward` and `input_gradient` only. Shapes below: n examples come first.

    position_wise: whether, in evaluation, y[n, t] depends on x[n, t] alone, so that text can be generated with it.
    """

    position_wise = False

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
    g: its delta ∂J/∂y. Inside a `Repeat` params, residuals and g are those of one turn.
    """

    path: str
    layer: Layer
    params: Params
    residuals: PyTree
    g: PyTree


def constructor_call(self: Any) -> str:
    """How a dataclass is written down, defaults left out."""
    if not dataclasses.is_dataclass(self):
        return f"{type(self).__name__}()"
    words = []
    for field in dataclasses.fields(self):
        value = getattr(self, field.name)
        if field.default is dataclasses.MISSING:
            words.append(str(value))
        elif value != field.default:
            words.append(f"{field.name}={value}")
    return f"{type(self).__name__}({', '.join(words)})"


def shorten(text: str, length: int) -> str:
    """The text, cut with a mark where it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


def describe(x: PyTree) -> str:
    """Shape and dtype in words: "float32[32, 784]"; of a tree, those of its leaves."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{x.dtype}{list(x.shape)}"
    if isinstance(x, tuple | list):
        return "(" + ", ".join(map(describe, x)) + ")"
    if isinstance(x, dict):
        return "{" + ", ".join(f"{name}: {describe(value)}" for name, value in x.items()) + "}"
    return type(x).__name__


def require_positive(owner: Any, **numbers: Any) -> None:
    """Refuses what is no positive whole number, by its name."""
    for name, number in numbers.items():
        if not isinstance(number, int | np.integer) or number < 1:
            raise ValueError(f"{type(owner).__name__} needs a positive whole number of {name}, not {number!r}")


def require_floating(layer: Layer, x: ArrayLike) -> None:
    """Refuses inputs that no gradient can flow through."""
    if not hasattr(x, "dtype"):
        raise LayerError(layer, f"expected an array of floating-point numbers, got {describe(x)}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise LayerError(
            layer, f"expected floating-point input, got {describe(x)}; convert it, as in x.astype(jnp.float32)"
        )


def is_floating(x: ArrayLike) -> bool:
    """Whether x has a gradient at all."""
    return jnp.issubdtype(x.dtype if hasattr(x, "dtype") else jnp.result_type(x), jnp.floating)


def contract(equation: str, *operands: Array, dtype: Any) -> Array:
    """An einsum that sums in float32 or wider, whatever the operands: bfloat16 sums would lose what they add."""
    wide = jnp.promote_types(jnp.result_type(*operands), jnp.float32)
    return jnp.einsum(equation, *operands, preferred_element_type=wide).astype(dtype)


def is_concrete(x: ArrayLike) -> bool:
    """Whether the numbers in x can be looked at now, outside jit, vmap and scan."""
    return not isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct)
