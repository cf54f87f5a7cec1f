"""Initial weights: normal, mean zero, with a variance that keeps signals (or deltas) of equal size through the layers.

For a weight with fan_in inputs and fan_out outputs (in a convolution each times the window's size):

    LeCun    variance 1 / fan_in                outputs as large as inputs         LeCun et al. (1998)
    Glorot   variance 2 / (fan_in + fan_out)    a compromise with the deltas       Glorot & Bengio (2010)
    He       variance 2 / fan_in                makes up for relu's dead half      He et al. (2015), arXiv 1502.01852

And one for weights that a signal passes time after time: Orthogonal, which keeps lengths as they are.

Each is a value, not a closure, so that layers that hold it stay comparable and hashable; JAX draws the numbers.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

__all__ = ["Glorot", "He", "LeCun", "Normal", "Orthogonal"]


@runtime_checkable
class Initializer(Protocol):
    """Anything that draws a weight of a shape and dtype; of the shape the last two axes are inputs and outputs."""

    def __call__(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Float[Array, "..."]: ...


@dataclass(frozen=True)
class LeCun:
    """Variance 1 / fan_in."""

    def __call__(self, key, shape, dtype):
        return jax.nn.initializers.lecun_normal()(key, shape, dtype)


@dataclass(frozen=True)
class Glorot:
    """Variance 2 / (fan_in + fan_out)."""

    def __call__(self, key, shape, dtype):
        return jax.nn.initializers.glorot_normal()(key, shape, dtype)


@dataclass(frozen=True)
class He:
    """Variance 2 / fan_in."""

    def __call__(self, key, shape, dtype):
        return jax.nn.initializers.he_normal()(key, shape, dtype)


@dataclass(frozen=True)
class Orthogonal:
    """Orthogonal blocks [inputs, inputs] side by side, as many as the outputs hold.

    Source: Saxe et al., arXiv 1312.6120.
    """

    def __call__(self, key, shape, dtype):
        *leading, inputs, outputs = shape
        if outputs % inputs:
            raise ValueError(f"Orthogonal needs outputs that are a multiple of the inputs, not {shape}")
        blocks = jax.random.orthogonal(
            key, inputs, (*leading, outputs // inputs), jnp.promote_types(dtype, jnp.float32)
        )
        return jnp.moveaxis(blocks, -3, -2).reshape(shape).astype(dtype)


@dataclass(frozen=True)
class Normal:
    """A deviation of its own, whatever the shape: for tables of rows that are looked up, not summed over.

    Source: 0.02 is that of Radford et al., GPT-2 (2019).
    """

    deviation: float = 0.02

    def __call__(self, key, shape, dtype):
        return self.deviation * jax.random.normal(key, shape, dtype)
