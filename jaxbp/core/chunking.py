"""On CPU: a few examples at once, so that what is moved or copied stays in the cache, and memory small."""

from math import prod

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

CACHE = 2**20  # bytes that stay near a core


def on_cpu() -> bool:
    """Whether arrays live there."""
    return jax.default_backend() == "cpu"


def over_examples(map_, x: Array, fitting: int):
    """A map of examples, to one array or several, at most `fitting` examples at once."""
    size, turns = in_turns(len(x), fitting)
    if turns < 2:
        return map_(x)
    y = lax.map(lambda i: map_(part(x, i, size)), jnp.arange(turns))
    y, rest = jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), y), x[size * turns :]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), y, map_(rest)) if len(rest) else y


def over_pairs(product, x: Array, y: Array, fitting: int) -> Array:
    """A product that sums over examples, at most `fitting` at once."""
    size, turns = in_turns(len(x), fitting)
    rest = product(x[size * turns :], y[size * turns :]) if len(x) > size * turns else 0
    if turns < 2:
        return product(x[:size], y[:size]) + rest
    shape = jax.eval_shape(product, x[:size], y[:size])
    turn = lambda i, total: total + product(part(x, i, size), part(y, i, size))  # noqa: E731
    return lax.fori_loop(0, turns, turn, rest + jnp.zeros(shape.shape, shape.dtype))


def part(x: Array, i: Array, size: int) -> Array:
    """Turn i's examples. Were x reshaped to [turns, size, ...] instead, XLA would make a copy of it where size is 1."""
    return lax.dynamic_slice_in_dim(x, i * size, size)


def in_turns(n: int, fitting: int) -> tuple[int, int]:
    """How many of n examples at once, and how often; some are left only where that saves half of the turns."""
    fitting = max(1, min(fitting, n))
    size = max(size for size in range(1, fitting + 1) if n % size == 0)
    size = size if 2 * size >= fitting else fitting
    return size, n // size


def bytes_each(*arrays: Array) -> int:
    """What one example of them takes."""
    return sum(prod(x.shape[1:]) * x.dtype.itemsize for x in arrays)
