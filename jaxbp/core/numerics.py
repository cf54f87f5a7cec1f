"""Numerics that all files share: where to add up, what has a gradient, what can be looked at."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxbp.core.layer import ArrayLike


def is_floating(x: ArrayLike) -> bool:
    """Whether x has a gradient at all."""
    return jnp.issubdtype(x.dtype if hasattr(x, "dtype") else jnp.result_type(x), jnp.floating)


def contract(equation: str, *operands: Array, dtype: Any) -> Array:
    """An einsum that sums in float32 or wider, whatever the operands: bfloat16 sums would lose what they add."""
    return jnp.einsum(equation, *operands, preferred_element_type=accumulation_dtype(*operands)).astype(dtype)


def accumulation_dtype(*arrays: ArrayLike) -> Any:
    """The dtype to add up in: float32, or float64 where an array is float64."""
    return jnp.promote_types(jnp.result_type(*(x.dtype for x in arrays)), jnp.float32)


def widened(x: Array) -> Array:
    """x in the dtype to add up in."""
    return x.astype(accumulation_dtype(x))


def is_concrete(x: ArrayLike) -> bool:
    """Whether the numbers in x can be looked at now, outside jit, vmap and scan."""
    return not isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct)


def expand(x: Array, rank: int) -> Array:
    """x with axes of length 1 behind, to multiply an array of that rank."""
    return jax.lax.expand_dims(x, range(x.ndim, rank))
