"""Three bilinear maps between a large grid and a small one: what convolutions and their gradients are made of.

Position q of the small grid and offset k of the window meet p = s q + d k - l on the large grid (`geometry.py`). With
n over examples, c over the large grid's channels, o over the small one's, and zeros outside the grids:

    correlate   y[n,q,o] = Σ_{k,c} x[n, sq + dk - l, c] W[k,c,o]              large, window -> small
    spread      x[n,p,c] = Σ_{q,k : sq + dk - l = p} Σ_o y[n,q,o] W[k,c,o]    small, window -> large
    match       W[k,c,o] = Σ_{n,q} x[n, sq + dk - l, c] y[n,q,o]              large, small -> window

All three are the one sum Σ x[n,p,c] W[k,c,o] y[n,q,o] over what meets, with one factor left out: each is the adjoint of
the other two, and the gradients of any of them are the others. With G groups, c and o run over channels of equal group;
W is [*window, channels of x / G, channels of y].

Each is one convolution of XLA's:

    spread      the y[q] stand s apart, and W is read backwards: k = (p + l - s q) / d
    match       y is the window, its entries s apart, moved over x in steps of d; channels of x count as examples
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxbp.layers.spatial.geometry import Grids, taken


def correlate(grids: Grids, x: Float[Array, "n *large c"], weight: Array, groups: int) -> Float[Array, "n *small o"]:
    """The windows of x, weighed by `weight`."""
    return convolve(x, weight, grids.stride, grids.padding, rhs_dilation=grids.dilation, feature_group_count=groups)


def spread(grids: Grids, y: Float[Array, "n *small o"], weight: Array, groups: int) -> Float[Array, "n *large c"]:
    """Each y laid over its window, the overlaps added."""
    weight = jnp.flip(transposed(weight, groups), range(len(grids.window)))
    # Between two windows' ends there is one place more than between an end and the grid's: hence reach - 1.
    padding = [(r - 1 - low, r - 1 - high) for r, (low, high) in zip(grids.reach, grids.padding, strict=True)]
    return convolve(y, weight, (1,) * len(padding), padding, grids.stride, grids.dilation, feature_group_count=groups)


def match(grids: Grids, x: Float[Array, "n *large c"], y: Array, groups: int) -> Float[Array, "*window i o"]:
    """What meets at each offset of the window, multiplied and added up."""
    axes = "HWD"[: len(grids.window)]
    return convolve(
        x,
        y,
        grids.dilation,
        grids.padding,
        rhs_dilation=grids.stride,
        dimension_numbers=(f"C{axes}N", f"I{axes}O", f"{axes}NC"),
        batch_group_count=groups,
    )


def convolve(x, weight, stride, padding, lhs_dilation=None, rhs_dilation=None, dimension_numbers=None, **groups):
    """XLA's convolution, channels last, that adds up in float32 or wider and returns what it added up in."""
    axes = "HWD"[: len(stride)]
    return lax.conv_general_dilated(
        x,
        weight,
        stride,
        padding,
        lhs_dilation,
        rhs_dilation,
        dimension_numbers or (f"N{axes}C", f"{axes}IO", f"N{axes}C"),
        preferred_element_type=jnp.promote_types(jnp.result_type(x, weight), jnp.float32),
        **groups,
    )


def transposed(weight: Float[Array, "*window i o"], groups: int) -> Float[Array, "*window o_g i_g"]:
    """The two channel axes exchanged within each group: [*k, C/G, O] to [*k, O/G, C]."""
    *window, c, o = weight.shape
    split = weight.reshape(*window, c, groups, o // groups)
    return jnp.swapaxes(split, -1, -3).reshape(*window, o // groups, groups * c)


def patches(grids: Grids, x: Float[Array, "n *large c"]) -> Float[Array, "n *small kc"]:
    """What each window sees, in one row: offsets in row-major order, the channels within."""
    return jnp.concatenate([taken(grids, k, x) for k in grids.offsets()], -1)
