"""Which way to compute the three maps of `correlation.py`: all are exact, the fastest depends on backend and shapes.

On CPU there are ways round what is slow in XLA (in brackets milliseconds on two cores, the direct way first). On other
backends the direct way is taken.

    correlate over two axes       XLA has two convolutions. The one it prefers shares its work by columns and channels
                                  of the result, and runs on one core where these are few; the other takes what has more
                                  rows than went in. So one row more is asked for, and dropped [14x14x32, 5x5: 11] 7.
                                  jax.grad of it is slow: XLA has no fast way for the window that it asks for
    match over two axes           w and c share an axis: the result, otherwise the window's few positions, becomes wide
                                  enough for all cores [13] 10
    match of few channels         one matmul: what each offset sees, channel by channel, is a row [28x28x1: 2.9] 1.7
    few channels see each other   with G groups XLA's loops don't use the machine: each group is a dense convolution of
                                  its own [match, 4 groups: 500] 4.5; with one channel a group (depthwise) there is
                                  nothing to contract: products of shifted arrays, one an offset [17] 0.8
    three axes                    one matmul an offset, on shifted arrays [spread, stride 2: 75] 2
    spread with a stride          the direct way multiplies the zeros between the y[q]. Positions p that are equal mod s
                                  see the same offsets of the window: a spread without zeros for each [4.7] 2
    match, small with a stride    one matmul an offset [2.6] 0.4 for 1x1 with stride 2

Matmuls and match run over a few examples at once, so that what is moved stays in the cache and memory stays small.
"""

from dataclasses import replace
from math import prod

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxbp.layers import correlation as direct
from jaxbp.layers.window import Grids, laid, taken

CACHE = 2**20  # bytes that stay near a core
TILE = 2**12  # numbers of a row of the result that XLA leaves to one core
LANES = 8  # fewer neighbouring numbers than this are not worth moving apart
FEW = 16  # with so many channels on either side XLA uses all cores as it is


def correlate(grids: Grids, x: Float[Array, "n *large c"], weight: Array, groups: int) -> Float[Array, "n *small o"]:
    """large, window -> small."""
    if not on_cpu():
        return direct.correlate(grids, x, weight, groups)
    if depthwise(x, groups):
        return sum(once_per_channel(taken(grids, k, wide(x)), wide(weight[k])) for k in grids.offsets())
    if groups > 1:
        return each_group(correlate, grids, x, weight, groups)
    if len(grids.window) == 3:
        shifted = lambda x: sum(dot(taken(grids, k, x), weight[k]) for k in grids.offsets())  # noqa: E731
        return over_examples(shifted, x, CACHE // shifted_bytes(grids, x))
    if prod(grids.window) == 1:
        return dot(taken(grids, (0,) * len(grids.window), x), weight.reshape(weight.shape[-2:]))
    if kept_on_one_core(grids, x, weight):
        return one_row_more(grids, x, weight)
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
        shares = lambda y: sum(laid(grids, k, dot(y, weight[k].T)) for k in grids.offsets())  # noqa: E731
        return over_examples(shares, y, CACHE // shifted_bytes(grids, y))
    if max(grids.stride) == 1:
        return correlate(mirrored(grids), y, direct.transposed(jnp.flip(weight, range(len(grids.window))), 1), 1)
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
    channels, offsets = x.shape[-1], prod(grids.window)
    if channels < LANES:
        rows = lambda x, y: dot(seen(grids, x), y.reshape(-1, y.shape[-1]))  # noqa: E731
        total = over_pairs(rows, x, y, CACHE // shifted_bytes(grids, x))
        return total.reshape(*grids.window, channels, -1)
    if len(grids.window) == 3 or (strided(grids) and offsets <= 9):
        return by_offsets(grids, x, y, lambda x, y: dot(x.reshape(-1, channels).T, y.reshape(-1, y.shape[-1])))
    if len(grids.window) == 2 and grids.dilation[-1] == 1:
        return over_pairs(lambda x, y: channels_side_by_side(grids, x, y), x, y, CACHE // (x[:1].nbytes + y[:1].nbytes))
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
            x = x + laid(apart, r, spread(phase, y, part, 1))
    return x


def mirrored(grids: Grids) -> Grids:
    """For a spread with stride 1 as a correlate: the small grid is the large one, the window is read backwards."""
    low = tuple(r - 1 - low for r, low in zip(grids.reach, grids.low, strict=True))
    return Grids(grids.window, grids.stride, grids.dilation, low, grids.small, grids.large)


def kept_on_one_core(grids: Grids, x: Array, weight: Array) -> bool:
    """Whether XLA would run correlate on one core, and one row more than there are in x is a small price."""
    inputs, outputs = weight.shape[-2:]
    narrow = inputs > 1 and max(inputs, outputs) > FEW and grids.small[-1] * outputs <= TILE
    return (
        narrow
        and len(grids.window) == 2
        and grids.stride[0] == 1
        and x.dtype.itemsize <= 4
        and (0 <= grids.large[0] - grids.small[0] < grids.small[0] // 4)
    )


def one_row_more(grids: Grids, x: Float[Array, "n h w c"], weight: Array) -> Float[Array, "n h2 w2 o"]:
    """correlate, with more rows than x has, that are dropped."""
    rows = grids.large[0] + 1
    more = replace(grids, small=(rows, grids.small[1]))
    return direct.correlate(more, x, weight, 1)[:, : grids.small[0]]


def channels_side_by_side(grids: Grids, x: Float[Array, "n h w c"], y: Array) -> Float[Array, "k1 k2 c o"]:
    """match with dilation 1 along the last axis, which w and c share: x as one image x[h, (w,c), n], y its window."""
    n, h, w, c = x.shape
    row, window = jnp.moveaxis(x, 0, -1).reshape(1, h, w * c, n), jnp.moveaxis(y, 0, 2)
    high, (before, behind) = grids.padding
    stride, dilation = (grids.dilation[0], 1), (grids.stride[0], grids.stride[1] * c)
    return direct.convolve(row, window, stride, (high, (before * c, behind * c)), rhs_dilation=dilation).reshape(
        *grids.window, c, -1
    )


def seen(grids: Grids, x: Float[Array, "n *large c"]) -> Float[Array, "kc positions"]:
    """What each offset and channel sees, one row each."""
    parts = jnp.stack([taken(grids, k, x) for k in grids.offsets()])
    return jnp.moveaxis(parts, -1, 1).reshape(len(parts) * x.shape[-1], -1)


def by_offsets(grids: Grids, x: Array, y: Array, product) -> Float[Array, "*window i o"]:
    """match as one product an offset."""

    def products(x, y):
        return jnp.stack([product(taken(grids, k, x), y) for k in grids.offsets()])

    total = over_pairs(products, x, y, CACHE // shifted_bytes(grids, x))
    return total.reshape(*grids.window, *total.shape[1:])


def over_examples(map_, x: Array, fitting: int):
    """A map of examples, to one array or several, at most `fitting` examples at once."""
    chunks, rest = in_chunks(x, fitting)
    y = jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), lax.map(map_, chunks))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), y, map_(rest)) if len(rest) else y


def over_pairs(product, x: Array, y: Array, fitting: int) -> Array:
    """A product that sums over examples, at most `fitting` at once."""
    (xs, x_rest), (ys, y_rest) = in_chunks(x, fitting), in_chunks(y, fitting)
    shape = jax.eval_shape(product, xs[0], ys[0])
    start = product(x_rest, y_rest) if len(x_rest) else jnp.zeros(shape.shape, shape.dtype)
    return lax.scan(lambda total, pair: (total + product(*pair), None), start, (xs, ys))[0]


def in_chunks(x: Array, fitting: int) -> tuple[Array, Array]:
    """[n, ...] as [n / size, size, ...] and what is left: nothing, unless that would cost half of what fits."""
    n, fitting = len(x), max(1, min(fitting, len(x)))
    size = max(size for size in range(1, fitting + 1) if n % size == 0)
    size = size if 2 * size >= fitting else fitting
    whole = n // size * size
    return x[:whole].reshape(-1, size, *x.shape[1:]), x[whole:]


def shifted_bytes(grids: Grids, x: Array) -> int:
    """What the arrays of one example take, shifted to each offset."""
    return prod(grids.window) * prod(grids.small) * x.shape[-1] * x.dtype.itemsize


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
