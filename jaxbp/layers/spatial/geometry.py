"""How a window moves over a grid: what convolution and pooling share.

Let p run over the positions of the large grid, q over those of the small one, k over the window (each a vector, one
number an axis), s be the stride, d the dilation and l the padding in front. Position q and offset k of the window meet

    p = s q + d k - l                    0 ≤ p < large,  0 ≤ q < small,  0 ≤ k < window

Two maps for each offset k, each the adjoint of the other; zeros (or `fill`) stand outside the grid:

    taken   x[p] -> x[s q + d k - l] for all q
    laid    y[q] -> an x that has y[q] at p = s q + d k - l, and zeros elsewhere
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxbp.core.errors import LayerError, require_floating
from jaxbp.core.layer import ArrayLike, Layer
from jaxbp.core.text import describe

Sizes = tuple[int, ...]
Padding = str | tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Grids:
    """A large grid, a small grid and a window between them; one entry an axis."""

    window: Sizes
    stride: Sizes
    dilation: Sizes
    low: Sizes
    large: Sizes
    small: Sizes

    @property
    def reach(self) -> Sizes:
        """How many positions of the large grid a window spans."""
        return reach(self.window, self.dilation)

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """(low, high) for each axis, so that the last window ends where padding does; negative high leaves a rest."""
        spans = zip(self.low, self.stride, self.small, self.reach, self.large, strict=True)
        return tuple((low, s * (q - 1) + r - low - h) for low, s, q, r, h in spans)

    @property
    def padded(self) -> bool:
        """Whether a window reaches beyond the large grid."""
        return any(edge > 0 for pair in self.padding for edge in pair)

    def offsets(self) -> Iterator[Sizes]:
        """Every k, in row-major order."""
        return product(*map(range, self.window))


def taken(grids: Grids, k: Sizes, x: Float[Array, "n *large c"], fill: float = 0.0) -> Float[Array, "n *small c"]:
    """x[s q + d k - l] for all q."""
    x = padded(x, [(low, high, 0) for low, high in grids.padding], fill)
    start = [d * i for d, i in zip(grids.dilation, k, strict=True)]
    stop = [a + s * (q - 1) + 1 for a, s, q in zip(start, grids.stride, grids.small, strict=True)]
    return lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *grids.stride, 1))


def laid(grids: Grids, k: Sizes, y: Float[Array, "n *small c"]) -> Float[Array, "n *large c"]:
    """y[q] at s q + d k - l, zeros elsewhere."""
    amounts = []
    for low, s, d, i, q, h in zip(grids.low, grids.stride, grids.dilation, k, grids.small, grids.large, strict=True):
        first = d * i - low
        amounts.append((first, h - first - s * (q - 1) - 1, s - 1))
    return padded(y, amounts, 0.0)


def padded(x: Array, amounts: list[tuple[int, int, int]], fill: float) -> Array:
    """x with (low, high, interior) padding of its grid axes."""
    return lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), *amounts, (0, 0, 0)])


def reach(window: Sizes, dilation: Sizes) -> Sizes:
    """Positions that a window spans: d (k - 1) + 1."""
    return tuple(d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True))


def each(size: int | Sizes, rank: int) -> Sizes:
    """One number an axis: 2 is (2, 2) over two."""
    return (size,) * rank if isinstance(size, int) else tuple(size)


class Windowed(Layer):
    """What layers with a window share: their fields and the grids that follow. Subclasses are dataclasses with fields
    window, stride, padding and, where they have one, dilation.
    """

    dilation: int | Sizes = 1

    def _require_fields(self):
        """Refuses fields that don't fit the window, and makes them hashable."""
        name = type(self).__name__
        if isinstance(self.window, int) or not 1 <= len(tuple(self.window)) <= 3:
            raise ValueError(f"{name} needs a window of one to three sizes, such as (3, 3), not {self.window!r}")
        object.__setattr__(self, "window", tuple(self.window))
        if any(size < 1 for size in self.window):
            raise ValueError(f"{name} needs positive window sizes, not {self.window}")
        for field in ("stride", "dilation"):
            value = getattr(self, field)
            if not isinstance(value, int | None):
                object.__setattr__(self, field, tuple(value))
            sizes = each(1 if value is None else value, len(self.window))
            if len(sizes) != len(self.window) or any(size < 1 for size in sizes):
                raise ValueError(f"{name} needs a positive {field} for each axis of {self.window}, not {value}")
        if isinstance(self.padding, str):
            if self.padding not in ("SAME", "VALID"):
                raise ValueError(f'{name} needs padding "SAME", "VALID" or pairs, not "{self.padding}"')
            return
        object.__setattr__(self, "padding", tuple(tuple(pair) for pair in self.padding))
        if len(self.padding) != len(self.window) or any(len(pair) != 2 for pair in self.padding):
            raise ValueError(
                f"{name} needs padding (before, behind) for each axis of {self.window}, not {self.padding}"
            )

    def _grids(self, x: ArrayLike) -> Grids:
        """The grids for an input on the large one."""
        large = self._require_grid(x)
        stride, dilation = self._strides()
        spans = reach(self.window, dilation)
        if self.padding == "SAME":
            small = tuple(-(-h // s) for h, s in zip(large, stride, strict=True))
            low = same(large, small, stride, spans)
        else:
            pairs = ((0, 0),) * len(large) if self.padding == "VALID" else self.padding
            low = tuple(pair[0] for pair in pairs)
            room = tuple(h + sum(pair) for h, pair in zip(large, pairs, strict=True))
            if any(span > size for span, size in zip(spans, room, strict=True)):
                raise LayerError(
                    self,
                    f"the window spans {list(spans)}, more than the {list(room)} that {describe(x)} has with its "
                    'padding; take a smaller window or padding="SAME"',
                )
            small = tuple((size - span) // s + 1 for size, span, s in zip(room, spans, stride, strict=True))
        return Grids(self.window, stride, dilation, low, large, small)

    def _strides(self) -> tuple[Sizes, Sizes]:
        """Stride (the window's size where it is None) and dilation, one entry an axis."""
        stride = self.window if self.stride is None else each(self.stride, len(self.window))
        return stride, each(self.dilation, len(self.window))

    def _require_grid(self, x: ArrayLike) -> Sizes:
        """The grid's sizes, of an input with as many axes as the window asks for."""
        require_floating(self, x)
        if len(x.shape) != len(self.window) + 2:
            axes = ", ".join(("height", "width", "depth")[: len(self.window)])
            raise LayerError(self, f"expected [examples, {axes}, channels], got {describe(x)}")
        if 0 in x.shape[1:]:
            raise LayerError(self, f"expected at least one position and one channel, got {describe(x)}")
        return tuple(x.shape[1:-1])


def same(large: Sizes, small: Sizes, stride: Sizes, spans: Sizes) -> Sizes:
    """Padding in front that centres the windows, the odd one behind: XLA's and TensorFlow's SAME."""
    return tuple(max(s * (q - 1) + span - h, 0) // 2 for h, q, s, span in zip(large, small, stride, spans, strict=True))
