"""Convolution and its transpose, channels last, over one, two or three axes.

Let n run over examples, q over output positions, k over the window (vectors, one number an axis), c over input and o
over output channels; stride s, dilation d, padding l in front; x is zero outside its grid. A dense layer for each
window, with shared weights:

    y[n,q,o] = Σ_{k,c} x[n, sq + dk - l, c] W[k,c,o] + b[o]

With g = ∂J/∂y, every y[n,q] that has seen x[n,p] sends its error back along the weight that it saw it with:

    ∂J/∂x[n,p,c] = Σ_{q,k : sq + dk - l = p} Σ_o g[n,q,o] W[k,c,o]       a convolution of g with the window reversed
    ∂J/∂W[k,c,o] = Σ_{n,q} x[n, sq + dk - l, c] g[n,q,o]                 what came in, times the error that came back,
    ∂J/∂b[o]     = Σ_{n,q} g[n,q,o]                                      over all places where the weight is used

In the words of `bilinear_maps.py`: y = correlate(x, W), ∂J/∂x = spread(g, W), ∂J/∂W = match(x, g).

The transposed convolution is the middle line taken as a layer, with c and o exchanged: y = spread(x, Wᵀ) + b, an x laid
over its window of y. So its gradients are the other two: ∂J/∂x = correlate(g, Wᵀ), ∂J/∂W = match(g, x)ᵀ.

The residual is x alone. As in a dense layer, W reaches the backward as an argument.

Sources: LeCun et al., Neural Computation 1 (1989); Zeiler et al., Deconvolutional Networks, CVPR (2010); Dumoulin &
Visin, arXiv 1603.07285, for the arithmetic of sizes.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxbp.core.errors import LayerError, require_params
from jaxbp.core.layer import ArrayLike, Params
from jaxbp.core.text import describe
from jaxbp.initializers import Initializer, LeCun
from jaxbp.layers.spatial.bilinear_maps import patches, transposed
from jaxbp.layers.spatial.cpu_algorithms import correlate, match, spread
from jaxbp.layers.spatial.geometry import Grids, Padding, Sizes, Windowed, padded, reach, same


class _Convolution(Windowed):
    """What the two convolutions share: their fields, weights [*window, inputs / groups, outputs] and checks."""

    def __post_init__(self):
        self._require_fields()
        if self.features < 1 or self.groups < 1 or self.features % self.groups:
            raise ValueError(
                f"{type(self).__name__} needs a positive number of features that its groups divide, "
                f"not {self.features} features in {self.groups} groups"
            )

    def init(self, key: PRNGKeyArray, x: ArrayLike) -> Params:
        self._grids(x)
        self._require_channels(x)
        weight = self.initializer(key, (*self.window, x.shape[-1] // self.groups, self.features), x.dtype)
        return {"weight": weight, "bias": jnp.zeros(self.features, x.dtype)} if self.bias else {"weight": weight}

    def _biased(self, params, y):
        dtype = params["weight"].dtype
        return (y + params["bias"] if self.bias else y).astype(dtype)

    def _gradient(self, params, weight, g) -> Params:
        weight = weight.astype(params["weight"].dtype)
        if not self.bias:
            return {"weight": weight}
        wide = jnp.promote_types(g.dtype, jnp.float32)
        return {"weight": weight, "bias": jnp.sum(g, range(g.ndim - 1), wide).astype(params["bias"].dtype)}

    def _require_channels(self, x):
        if x.shape[-1] % self.groups:
            raise LayerError(self, f"expected channels that {self.groups} groups divide, got {describe(x)}")

    def _require(self, params, x) -> Grids:
        grids = self._grids(x)
        self._require_channels(x)
        weight = (*self.window, x.shape[-1] // self.groups, self.features)
        require_params(self, params, {"weight": weight} | ({"bias": (self.features,)} if self.bias else {}), x)
        return grids


@dataclass(frozen=True)
class Conv(_Convolution):
    """Maps [n, *grid, channels] to [n, *grid', features]; the window's length, 1 to 3, is the number of grid axes.

    Args:
        features: number of output channels.
        window: sizes of the window, as in (5, 5).
        stride: how far the window moves, one number or one an axis.
        padding: "SAME" (⌈grid / stride⌉ positions, zeros around), "VALID" (none), or (before, behind) for each axis.
        dilation: distance between neighbours in the window, one number or one an axis.
        groups: channels fall into so many groups that don't see each other; depthwise: groups=channels.
        bias: whether to add b, which begins at zero.
        initializer: draws the weight [*window, channels / groups, features].
    """

    features: int
    window: Sizes
    stride: int | Sizes = 1
    padding: Padding = "SAME"
    dilation: int | Sizes = 1
    groups: int = 1
    bias: bool = True
    initializer: Initializer = LeCun()

    def forward(self, params: Params, x: Array, rng: PRNGKeyArray | None = None):
        """Returns y [n, *grid', features] and the residual x."""
        grids = self._require(params, x)
        return self._biased(params, correlate(grids, x, params["weight"], self.groups)), x

    def input_gradient(self, params: Params, x, g: Float[Array, "n *small o"]) -> Float[Array, "n *grid c"]:
        return spread(self._grids(x), g, params["weight"], self.groups).astype(x.dtype)

    def param_gradient(self, params: Params, x, g: Float[Array, "n *small o"]) -> Params:
        return self._gradient(params, match(self._grids(x), x, g, self.groups), g)

    def affine(self, params: Params, x, g: Float[Array, "n *small o"]):
        """The windows [n, positions, window * channels] and g [n, positions, features]; None with groups."""
        if self.groups > 1:
            return None  # one pair of factors a group, and none for the whole
        return rows(patches(self._grids(x), x)), rows(g)


@dataclass(frozen=True)
class ConvTranspose(_Convolution):
    """Maps [n, *grid, channels] to the larger [n, *grid', features]: the adjoint of a `Conv` from grid' to grid.

    Arguments as for `Conv`, but that the stride is how far the window moves over the output, and padding is taken off
    it: "SAME" gives grid * stride, "VALID" (grid - 1) * stride + reach with reach = dilation * (window - 1) + 1, and
    (before, behind) takes as many positions off the latter (a negative number adds positions).
    """

    features: int
    window: Sizes
    stride: int | Sizes = 1
    padding: Padding = "SAME"
    dilation: int | Sizes = 1
    groups: int = 1
    bias: bool = True
    initializer: Initializer = LeCun()

    def forward(self, params: Params, x: Array, rng: PRNGKeyArray | None = None):
        """Returns y [n, *grid', features] and the residual x."""
        grids = self._require(params, x)
        return self._biased(params, spread(grids, x, transposed(params["weight"], self.groups), self.groups)), x

    def input_gradient(self, params: Params, x, g: Float[Array, "n *large o"]) -> Float[Array, "n *grid c"]:
        weight = transposed(params["weight"], self.groups)
        return correlate(self._grids(x), g, weight, self.groups).astype(x.dtype)

    def param_gradient(self, params: Params, x, g: Float[Array, "n *large o"]) -> Params:
        return self._gradient(params, transposed(match(self._grids(x), g, x, self.groups), self.groups), g)

    def affine(self, params: Params, x, g: Float[Array, "n *large o"]):
        """Seen from y: the x that reach each position [n, positions, window * channels], zeros between, and g.

        None with groups.
        """
        if self.groups > 1:
            return None
        grids = self._grids(x)
        apart = padded(x, [(0, 0, s - 1) for s in grids.stride], 0.0)  # x[q] at s q
        # y[p] has seen x[q] through k with s q = p + l - d k: windows that move by 1, read backwards.
        low = tuple(r - 1 - low for r, (low, _) in zip(grids.reach, grids.padding, strict=True))
        ones = (1,) * len(low)
        seen = patches(Grids(grids.window, ones, grids.dilation, low, apart.shape[1:-1], grids.large), apart)
        seen = seen.reshape(*seen.shape[:-1], *grids.window, -1)
        return rows(jnp.flip(seen, range(-1 - len(low), -1)).reshape(*g.shape[:-1], -1)), rows(g)

    def _grids(self, x):
        """The grids for an input on the small one."""
        small = self._require_grid(x)
        stride, dilation = self._strides()
        spans = reach(self.window, dilation)
        full = tuple(s * (q - 1) + span for s, q, span in zip(stride, small, spans, strict=True))
        if self.padding == "SAME":
            large = tuple(q * s for q, s in zip(small, stride, strict=True))
            low = same(large, small, stride, spans)
        else:
            pairs = ((0, 0),) * len(full) if self.padding == "VALID" else self.padding
            low = tuple(pair[0] for pair in pairs)
            large = tuple(size - sum(pair) for size, pair in zip(full, pairs, strict=True))
            if any(size < 1 for size in large):
                raise LayerError(self, f"padding {pairs} leaves {list(large)} positions of {list(full)}; take less")
        return Grids(self.window, stride, dilation, low, large, small)


def rows(x: Float[Array, "n *grid c"]) -> Float[Array, "n positions c"]:
    """One row a position."""
    return x.reshape(x.shape[0], -1, x.shape[-1])
