"""Initial weights: normal, mean zero, with a variance that keeps signals (or deltas) of equal size through the layers.

For a weight with fan_in inputs and fan_out outputs (in a convolution each times the window's size):

    LeCun    variance 1 / fan_in                outputs as large as inputs         LeCun et al. (1998)
    Glorot   variance 2 / (fan_in + fan_out)    a compromise with the deltas       Glorot & Bengio (2010)
    He       variance 2 / fan_in                makes up for relu's dead half      He et al. (2015), arXiv 1502.01852

And one for weights that a signal passes time after time: Orthogonal, which keeps lengths as they are.

The first three draw from a normal distribution that is cut off at two deviations, as `jax.nn.initializers` do, number
by number. Each is a value, not a closure, so that layers that hold it stay comparable and hashable.
"""

from dataclasses import dataclass
from math import prod
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
        fan_in, _ = fans(shape)
        return cut_normal(key, shape, dtype, 1 / fan_in)


@dataclass(frozen=True)
class Glorot:
    """Variance 2 / (fan_in + fan_out)."""

    def __call__(self, key, shape, dtype):
        fan_in, fan_out = fans(shape)
        return cut_normal(key, shape, dtype, 2 / (fan_in + fan_out))


@dataclass(frozen=True)
class He:
    """Variance 2 / fan_in."""

    def __call__(self, key, shape, dtype):
        fan_in, _ = fans(shape)
        return cut_normal(key, shape, dtype, 2 / fan_in)


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
        return self.deviation * jax.random.normal(key, (prod(shape),), dtype).reshape(shape)


def cut_normal(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any, variance: float) -> Float[Array, "..."]:
    """Normal numbers of a variance, none beyond two deviations.

    They are drawn flat, which changes none: to compile a draw of [3, 3, 8, 12] takes XLA many seconds on CPU.
    """
    lost = 0.87962566103423978  # the deviation of the unit normal when it is cut off at ±2
    deviation = jnp.sqrt(jnp.array(variance, dtype)) / jnp.array(lost, dtype)
    return (jax.random.truncated_normal(key, -2, 2, (prod(shape),), dtype) * deviation).reshape(shape)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """fan_in and fan_out of a weight [*window, inputs, outputs]."""
    *window, inputs, outputs = shape
    return prod(window) * inputs, prod(window) * outputs
