"""Axes of [examples, ...]: which may be chosen, and how an array is laid along one."""

from typing import Any

from jaxtyping import Array

from jaxbp.core.errors import LayerError
from jaxbp.core.layer import ArrayLike
from jaxbp.core.text import describe


def feature_axis(layer: Any, axis: int, x: ArrayLike) -> int:
    """The axis counted from the front; raises if x lacks it, or if it counts the examples, which must not mix."""
    rank = len(x.shape)
    if not -rank <= axis < rank or axis % rank == 0:
        raise LayerError(layer, f"expected axis {axis} to be a feature axis of [examples, ...], got {describe(x)}")
    return axis % rank


def is_behind_positions(axis: int) -> bool:
    """Whether this axis of [n, t, ..., features] is certainly not t: -2 is, or is not, depending on the rank."""
    return axis == -1 or axis >= 2


def along(values: Array, axis: int, rank: int) -> Array:
    """A vector laid along one axis of an array of that rank; the other axes have length 1."""
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])
