"""Which way to compute the three maps of `correlation.py`: all are exact, the fastest depends on backend and shapes.

On CPU XLA's direct convolution is hard to beat for windows that move by one over one or two axes. Four cases are slow
there, and have a way round (times on two cores, in brackets the direct one). On other backends the direct way is taken.

    few channels see each other   with G groups XLA's loops don't use the machine: each group is a dense convolution of
                                  its own [match, 4 groups: 500 ms] 4.5 ms; with one channel a group (depthwise) there
                                  is nothing to contract: products of shifted arrays, one an offset [17 ms] 0.8 ms
    three axes                    one matmul an offset, on shifted arrays [spread, stride 2: 75 ms] 2 ms
    spread with a stride          the direct way multiplies the zeros between the y[q]. Positions p that are equal mod s
                                  see the same offsets of the window: a spread without zeros for each [4.7 ms] 2 ms
    match of one channel,         one matmul an offset here too: few numbers are moved for many that are computed
    or small and with a stride    [6.0 ms] 2.4 ms for 28x28x1, 5x5;  [2.6 ms] 0.4 ms for 1x1 with stride 2

Matmuls run over a few examples at once, so that what is moved stays in the cache and memory stays small.
"""

from math import prod

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxbp.layers import correlation as direct
from jaxbp.layers.window import Grids, laid, taken

CACHE = 2**20  # bytes that stay near a core
LANES = 8  # fewer neighbouring numbers than this are not worth moving apart


def correlate(grids: Grids, x: Float[Array, "n *large c"], weight: Array, groups: int) -> Float[Array, "n *small o"]:
    """large, window -> small."""
    if not on_cpu():
        return direct.correlate(grids, x, weight, groups)
    if depthwise(x, groups):
        return sum(once_per_channel(taken(grids, k, wide(x)), wide(weight[k])) for k in grids.offsets())
    if groups > 1:
        return each_group(correlate, grids, x, weight, groups)
    if len(grids.window) == 3:
        return over_examples(lambda x: sum(dot(taken(grids, k, x), weight[k]) for k in grids.offsets()), grids, x)
    return direct.correlate(grids, x, weight, groups)


def spread(grids: Grids, y: Float[Array, "n *small o"], weight: Array, groups: int) -> Float[Array, "n *large c"]:
    """small, window -> large."""
    if not on_cpu():
        return direct.spread(grids, y, weight, groups)
    channels = weight.shape[-2]
    if groups > 1 and channels == 1:
        shares = (once_per_channel_adjoint(wide(y), wide(weight[k]), groups) for k in grids.offsets())
        return sum(laid(grids, k, share) for k, share in zip(grids.offsets(), shares, strict=True))
    if groups > 1:
        return each_group(spread, grids, y, weight, groups)
    if len(grids.window) == 3:
        return over_examples(lambda y: sum(laid(grids, k, dot(y, weight[k].T)) for k in grids.offsets()), grids, y)
    if strided(grids) and max(grids.dilation) == 1 and channels >= LANES:
        return in_phases(grids, y, weight)
    return direct.spread(grids, y, weight, groups)


def match(grids: Grids, x: Float[Array, "n *large c"], y: Array, groups: int) -> Float[Array, "*window i o"]:
    """large, small -> window."""
    if not on_cpu():
        return direct.match(grids, x, y, groups)
    if depthwise(x, groups):
        return by_offsets(grids, x, y, once_per_channel_product)
    if groups > 1:
        return each_group(match, grids, x, y, groups)
    channels = x.shape[-1]
    small = strided(grids) and prod(grids.window) <= 9 and channels >= LANES
    if len(grids.window) == 3 or small or (channels == 1 and max(grids.stride) == 1):
        return by_offsets(grids, x, y, lambda x, y: dot(x.reshape(-1, channels).T, y.reshape(-1, y.shape[-1])))
    return direct.match(grids, x, y, groups)


def on_cpu() -> bool:
    """Whether the ways round are worth it."""
    return jax.default_backend() == "cpu"


def strided(grids: Grids) -> bool:
    """Whether a window over two axes moves by more than one; over one axis the direct way is as fast."""
    return len(grids.window) == 2 and max(grids.stride) > 1


def depthwise(x: Array, groups: int) -> bool:
    """Whether each channel of the large grid is a group of its own."""
    return 1 < groups == x.shape[-1]


def each_group(map_, grids: Grids, a: Array, b: Array, groups: int) -> Array:
    """The map, group by group: in all three of them both factors and the result are divided along their last axis."""
    pairs = zip(jnp.split(a, groups, -1), jnp.split(b, groups, -1), strict=True)
    return jnp.concatenate([map_(grids, *pair, 1) for pair in pairs], -1)


def in_phases(grids: Grids, y: Float[Array, "n *small o"], weight: Array) -> Float[Array, "n *large c"]:
    """spread with stride s and dilation 1, as one of stride 1 for each r, 0 ≤ r < s, with weights W[r], W[r + s], …

    Write p + l = s m + r and k = s j + r: then p = s q + k - l says m = q + j.
    """
    ones = (1,) * len(grids.window)
    blocks = tuple(-(-(h + low) // s) for h, low, s in zip(grids.large, grids.low, grids.stride, strict=True))
    x = jnp.zeros((), jnp.promote_types(jnp.result_type(y, weight), jnp.float32))
    for r in Grids(grids.stride, ones, ones, ones, ones, ones).offsets():
        part = weight[tuple(slice(first, None, s) for first, s in zip(r, grids.stride, strict=True))]
        if part.size:
            phase = Grids(part.shape[:-2], ones, ones, (0,) * len(ones), blocks, grids.small)
            apart = Grids(ones, grids.stride, ones, grids.low, grids.large, blocks)
            x = x + laid(apart, r, direct.spread(phase, y, part, 1))
    return x


def by_offsets(grids: Grids, x: Array, y: Array, product) -> Float[Array, "*window i o"]:
    """match as one product an offset, added up over chunks of examples."""

    def of_chunk(x, y):
        return jnp.stack([product(taken(grids, k, x), y) for k in grids.offsets()])

    size = examples_at_once(grids, x)
    shape = jax.eval_shape(of_chunk, x[:size], y[:size])
    total, _ = lax.scan(
        lambda total, pair: (total + of_chunk(*pair), None),
        jnp.zeros(shape.shape, shape.dtype),
        (in_chunks(x, size), in_chunks(y, size)),
    )
    return total.reshape(*grids.window, *shape.shape[1:])


def over_examples(map_, grids: Grids, x: Array) -> Array:
    """A map of examples, a few at once."""
    y = lax.map(map_, in_chunks(x, examples_at_once(grids, x)))
    return y.reshape(x.shape[0], *y.shape[2:])


def examples_at_once(grids: Grids, x: Array) -> int:
    """The largest divisor of the number of examples whose arrays, shifted to each offset, stay in the cache."""
    fitting = CACHE // (prod(grids.window) * prod(grids.small) * x.shape[-1] * x.dtype.itemsize)
    return max(size for size in range(1, x.shape[0] + 1) if x.shape[0] % size == 0 and size <= max(fitting, 1))


def in_chunks(x: Array, size: int) -> Array:
    """[n, ...] as [n / size, size, ...]."""
    return x.reshape(x.shape[0] // size, size, *x.shape[1:])


def dot(a: Array, b: Array) -> Array:
    """A matmul that adds up in float32 or wider, and stays there."""
    return jnp.matmul(a, b, preferred_element_type=jnp.promote_types(jnp.result_type(a, b), jnp.float32))


def once_per_channel(x: Float[Array, "*n c"], weight: Float[Array, "1 o"]) -> Float[Array, "*n o"]:
    """Each channel times the weights of the o / c outputs that see it."""
    return (x[..., None] * weight.reshape(x.shape[-1], -1)).reshape(*x.shape[:-1], -1)


def once_per_channel_adjoint(y: Float[Array, "*n o"], weight: Float[Array, "1 o"], channels: int) -> Array:
    """Each channel's part of what its outputs have, [*n, c]."""
    return jnp.sum((y * weight[0]).reshape(*y.shape[:-1], channels, -1), -1)


def once_per_channel_product(x: Float[Array, "*n c"], y: Float[Array, "*n o"]) -> Float[Array, "1 o"]:
    """Each channel times its outputs, added up."""
    pairs = wide(x)[..., None] * wide(y).reshape(*x.shape, -1)
    return jnp.sum(pairs, range(x.ndim - 1)).reshape(1, -1)


def wide(x: Array) -> Array:
    """x in float32, or wider if it is."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
