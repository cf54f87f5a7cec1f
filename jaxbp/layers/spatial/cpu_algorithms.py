"""Which way to compute the three maps of `bilinear_maps.py`: all are exact, the fastest depends on backend and shapes.

On CPU there are ways round what is slow in XLA (in brackets milliseconds on two cores, the direct way first). On other
backends the direct way is taken.

    correlate over two axes       XLA has two convolutions. The one it prefers shares its work by columns and channels
                                  of the result, and runs on one core where these are few; the other takes what has more
                                  rows than went in. So one row more is asked for, and dropped [14x14x32, 5x5: 11] 7.
                                  jax.grad of it is slow: XLA has no fast way for the window that it asks for
    match                         axes as in a plain convolution: in a loop XLA is slow without [8x8x32, 3x3: 53] 0.4.
                                  Over two axes w and c share one: the result, otherwise the window's few positions,
                                  becomes wide enough for all cores, with a stride too [32x32x32, 3x3, stride 2: 3] 1.4.
                                  With a dilation each kind of positions is an example [16x16x32, 3x3: 1.3] 1
    few channels see each other   with G groups XLA's loops don't use the machine: each group is a dense convolution of
                                  its own [match, 4 groups: 57] 0.7; with one channel a group (depthwise) there is
                                  nothing to contract: products of shifted arrays, one an offset [17] 0.3
    three axes                    one convolution over the other two for each offset along the first [spread of
                                  12x12x12x16, stride 2: 28] 0.3
    spread with a stride          the direct way multiplies the zeros between the y[q]. Positions p that are equal mod s
                                  see the same offsets of the window: a spread without zeros for each [4.7] 2
    windows of one                one matmul [match, 1x1 with stride 2: 2.6] 0.4

What moves or copies arrays runs over a few examples at once, so that these stay in the cache and memory stays small.
"""

from dataclasses import replace
from math import prod

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbp.core import chunking as cpu
from jaxbp.core.chunking import CACHE, bytes_each, over_examples, over_pairs
from jaxbp.core.numerics import widened
from jaxbp.layers.spatial import bilinear_maps as direct
from jaxbp.layers.spatial.geometry import Grids, laid, padded, taken

COPIES = 4  # of the examples, where these are taken apart and put together
TILE = 2**12  # numbers of a row of the result that XLA leaves to one core
AT_ONCE = 2**8  # examples times channels of y: with fewer, or many more, `match` is slower
LANES = 8  # fewer neighbouring numbers than this are not worth moving apart
FEW, WIDE = 16, 128  # with no more channels on either side, or so many in the result, XLA uses all cores as it is
LONG = 2**9  # products in a sum: with fewer one core is enough, but for few channels


def correlate(grids: Grids, x: Float[Array, "n *large c"], weight: Array, groups: int) -> Float[Array, "n *small o"]:
    """large, window -> small."""
    if not cpu.on_cpu() or (len(grids.window) == 1 < groups and not depthwise(x, groups)):
        return direct.correlate(grids, x, weight, groups)
    if depthwise(x, groups):
        repeats = weight.shape[-1] // x.shape[-1]
        return over_examples(lambda x: per_channel(grids, x, weight), x, CACHE // (repeats * bytes_each(x)))
    if groups > 1:
        one = each_group(correlate, groups)
        return over_examples(lambda x: one(grids, x, weight), x, CACHE // (COPIES * bytes_each(x)))
    if len(grids.window) == 3:
        return over_examples(lambda x: by_planes(grids, x, weight), x, CACHE // plane_bytes(grids, x, weight))
    if prod(grids.window) == 1:
        return dot(taken(grids, (0,) * len(grids.window), x), weight.reshape(weight.shape[-2:]))
    if kept_on_one_core(grids, x, weight):
        return one_row_more(grids, x, weight)
    return direct.correlate(grids, x, weight, groups)


def spread(grids: Grids, y: Float[Array, "n *small o"], weight: Array, groups: int) -> Float[Array, "n *large c"]:
    """small, window -> large."""
    channels = weight.shape[-2]
    if not cpu.on_cpu() or (len(grids.window) == 1 < min(groups, channels)):
        return direct.spread(grids, y, weight, groups)
    if groups > 1 and channels == 1:
        return per_channel_adjoint(grids, y, weight, groups)
    if groups > 1:
        one = each_group(spread, groups)
        return over_examples(lambda y: one(grids, y, weight), y, CACHE // (COPIES * bytes_each(y)))
    if len(grids.window) == 3:
        return over_examples(lambda y: by_planes_adjoint(grids, y, weight), y, CACHE // plane_bytes(grids, y, weight))
    if max(grids.stride) == 1:
        return correlate(mirrored(grids), y, direct.transposed(jnp.flip(weight, range(len(grids.window))), 1), 1)
    if strided(grids) and max(grids.dilation) == 1 and channels >= LANES:
        return in_phases(grids, y, weight)
    return direct.spread(grids, y, weight, groups)


def match(grids: Grids, x: Float[Array, "n *large c"], y: Array, groups: int) -> Float[Array, "*window i o"]:
    """large, small -> window."""
    if not cpu.on_cpu():
        return direct.match(grids, x, y, groups)
    axes, fitting = len(grids.window), CACHE // bytes_each(x, y)
    if depthwise(x, groups):
        return over_pairs(lambda x, y: per_channel_product(grids, x, y), x, y, CACHE // shifted_bytes(grids, x))
    if groups > 1:
        every = lambda x, y: each_group(match, groups)(grids, x, y)  # noqa: E731
        return every(x, y) if axes == 1 else over_pairs(every, x, y, fitting)
    if axes == 3:
        return over_pairs(lambda x, y: by_planes_product(grids, x, y), x, y, fitting // grids.window[0])
    if prod(grids.window) == 1:
        seen, y = (z.reshape(-1, z.shape[-1]) for z in (taken(grids, (0,) * axes, x), y))
        return dot(seen.T, y).reshape(*grids.window, *seen.shape[1:], -1)
    outputs = y.shape[-1]
    narrow = outputs <= FEW and len(x) * outputs <= AT_ONCE
    if axes == 1 or narrow or (grids.dilation[-1] > 1 and not dilation_fits(grids)):
        return channels_as_examples(grids, x, y)
    if grids.dilation[-1] > 1:
        return over_pairs(lambda x, y: dilation_as_examples(grids, x, y), x, y, fitting // COPIES)
    least = AT_ONCE // outputs
    together = min(max(fitting, least), max(2 * least, LANES))
    return over_pairs(lambda x, y: channels_side_by_side(grids, x, y), x, y, together)


def strided(grids: Grids) -> bool:
    """Whether a window over two axes moves by more than one; over one axis the direct way is as fast."""
    return len(grids.window) == 2 and max(grids.stride) > 1


def depthwise(x: Array, groups: int) -> bool:
    """Whether each channel of the large grid is a group of its own."""
    return 1 < groups == x.shape[-1]


def each_group(map_, groups: int):
    """The map, group by group: in all three of them both factors and the result are divided along their last axis."""

    def every(grids: Grids, a: Array, b: Array) -> Array:
        pairs = zip(jnp.split(a, groups, -1), jnp.split(b, groups, -1), strict=True)
        return jnp.concatenate([map_(grids, *pair, 1) for pair in pairs], -1)

    return every


def planes(grids: Grids) -> tuple[Grids, Grids]:
    """Three axes as one and two: the first alone, with windows of one along the others, and the others."""
    first = [(field[0], 1, 1) for field in (grids.window, grids.stride, grids.dilation)]
    front = Grids(*first, (grids.low[0], 0, 0), grids.large, (grids.small[0], *grids.large[1:]))
    fields = (grids.window, grids.stride, grids.dilation, grids.low, grids.large, grids.small)
    return front, Grids(*(field[1:] for field in fields))


def flat(x: Float[Array, "n d *plane c"]) -> Float[Array, "nd *plane c"]:
    """Planes as examples."""
    return x.reshape(-1, *x.shape[2:])


def by_planes(grids: Grids, x: Array, weight: Array) -> Array:
    """correlate over three axes, as one over two for each offset along the first."""
    front, plane = planes(grids)
    y = sum(correlate(plane, flat(taken(front, k, x)), weight[k[0]], 1) for k in front.offsets())
    return y.reshape(len(x), *grids.small, -1)


def by_planes_adjoint(grids: Grids, y: Array, weight: Array) -> Array:
    """spread over three axes, likewise."""
    front, plane = planes(grids)
    shares = (spread(plane, flat(y), weight[k[0]], 1).reshape(len(y), *front.small, -1) for k in front.offsets())
    return sum(laid(front, k, share) for k, share in zip(front.offsets(), shares, strict=True))


def by_planes_product(grids: Grids, x: Array, y: Array) -> Array:
    """match over three axes, likewise."""
    front, plane = planes(grids)
    return jnp.stack([match(plane, flat(taken(front, k, x)), flat(y), 1) for k in front.offsets()])


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
    narrow = LANES <= outputs < WIDE and max(inputs, outputs) > FEW and grids.small[-1] * outputs <= TILE
    return (
        narrow
        and (1 < inputs < LANES or prod(grids.window) * inputs >= LONG)
        and len(grids.window) == 2
        and grids.stride[0] == 1
        and x.dtype.itemsize <= 4
        and (0 <= grids.large[0] - grids.small[0] < grids.small[0] // 4)
    )


def one_row_more(grids: Grids, x: Float[Array, "n h w c"], weight: Array) -> Float[Array, "n h2 w2 o"]:
    """correlate, with more rows than x has, that are dropped."""
    rows = grids.large[0] + 1
    more = replace(grids, small=(rows, grids.small[1]))
    fewer = lambda x: direct.correlate(more, x, weight, 1)[:, : grids.small[0]]  # noqa: E731
    return over_examples(fewer, x, CACHE // (2 * prod(more.small) * weight.shape[-1] * x.dtype.itemsize))


def channels_as_examples(grids: Grids, x: Float[Array, "n *large c"], y: Array) -> Float[Array, "*window c o"]:
    """match in the direct way, but with its axes put in order."""
    x, window = jnp.moveaxis(x, (-1, 0), (0, -1)), jnp.moveaxis(y, 0, -2)
    return jnp.moveaxis(direct.convolve(x, window, grids.dilation, grids.padding, rhs_dilation=grids.stride), 0, -2)


def dilation_fits(grids: Grids) -> bool:
    """Whether `dilation_as_examples` holds, and makes the large grid not much larger."""
    large = prod(d * size for d, size in zip(grids.dilation, undilated(grids).large, strict=True))
    return max(grids.stride) == 1 and large <= 2 * prod(grids.large)


def undilated(grids: Grids) -> Grids:
    """The grids of one kind of positions."""
    ones, zeros = (1,) * len(grids.window), (0,) * len(grids.window)
    small = tuple(-(-q // d) for q, d in zip(grids.small, grids.dilation, strict=True))
    large = tuple(q + k - 1 for q, k in zip(small, grids.window, strict=True))
    return Grids(grids.window, ones, ones, zeros, large, small)


def dilation_as_examples(grids: Grids, x: Float[Array, "n *large c"], y: Array) -> Float[Array, "*window c o"]:
    """match with stride 1: positions q and p + l that are equal mod d meet no others, and are examples of their own."""
    one_kind = undilated(grids)

    def apart(x, low, sizes):
        full = [d * size for d, size in zip(grids.dilation, sizes, strict=True)]
        x = padded(x, [(a, b - a - h, 0) for a, b, h in zip(low, full, x.shape[1:-1], strict=True)], 0.0)
        split = [size for pair in zip(sizes, grids.dilation, strict=True) for size in pair]
        x = x.reshape(len(x), *split, -1)
        return jnp.moveaxis(x, range(2, x.ndim, 2), range(1, 1 + len(sizes))).reshape(-1, *sizes, x.shape[-1])

    return match(one_kind, apart(x, grids.low, one_kind.large), apart(y, one_kind.low, one_kind.small), 1)


def channels_side_by_side(grids: Grids, x: Float[Array, "n h w c"], y: Array) -> Float[Array, "k1 k2 c o"]:
    """match with dilation 1 along the last axis, which w and c share: x as one image x[h, (w,c), n], y its window."""
    n, h, w, c = x.shape
    row, window = jnp.moveaxis(x, 0, -1).reshape(1, h, w * c, n), jnp.moveaxis(y, 0, 2)
    high, (before, behind) = grids.padding
    stride, dilation = (grids.dilation[0], 1), (grids.stride[0], grids.stride[1] * c)
    return direct.convolve(row, window, stride, (high, (before * c, behind * c)), rhs_dilation=dilation).reshape(
        *grids.window, c, -1
    )


def plane_bytes(grids: Grids, x: Array, weight: Array) -> int:
    """What one example of x and of what becomes of it take, for each offset along the first axis."""
    *_, i, o = weight.shape
    return grids.window[0] * (prod(grids.large) * i + prod(grids.small) * o) * x.dtype.itemsize


def shifted_bytes(grids: Grids, x: Array) -> int:
    """What the arrays of one example take, shifted to each offset."""
    return prod(grids.window) * prod(grids.small) * x.shape[-1] * x.dtype.itemsize


def dot(a: Array, b: Array) -> Array:
    """A matmul that adds up in float32 or wider, and stays there."""
    return jnp.matmul(a, b, preferred_element_type=jnp.promote_types(jnp.result_type(a, b), jnp.float32))


def per_channel(grids: Grids, x: Float[Array, "n *large c"], weight: Float[Array, "*window 1 o"]) -> Array:
    """correlate where each channel is a group, repeated for the o / c outputs that see it."""
    x = jnp.repeat(widened(x), weight.shape[-1] // x.shape[-1], -1)
    return sum(taken(grids, k, x) * weight[k] for k in grids.offsets())


def per_channel_adjoint(grids: Grids, y: Float[Array, "n *small o"], weight: Array, channels: int) -> Array:
    """spread, likewise: the first output of each channel, the second, …, and their sum."""
    apart = lambda y: jnp.moveaxis(widened(y).reshape(*y.shape[:-1], channels, -1), -1, 0)  # noqa: E731
    pairs = list(zip(apart(y), apart(weight), strict=True))
    return sum(laid(grids, k, y * weight[k]) for y, weight in pairs for k in grids.offsets())


def per_channel_product(grids: Grids, x: Float[Array, "n *large c"], y: Float[Array, "n *small o"]) -> Array:
    """match, likewise: [*window, 1, o]."""
    x = jnp.repeat(widened(x), y.shape[-1] // x.shape[-1], -1)
    products = [jnp.sum(taken(grids, k, x) * widened(y), range(y.ndim - 1)) for k in grids.offsets()]
    return jnp.stack(products).reshape(*grids.window, 1, -1)
