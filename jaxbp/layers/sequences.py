"""Sequences of different lengths in one batch: what fills them up to the longest changes nothing.

    Sequences(values [n, t, features], lengths [n], states, ended)

Recurrent layers take a plain array, where every sequence fills its row, or `Sequences`, and give back the same kind.
Values at times t ≥ lengths[n] are padding: nobody reads them, and no gradient flows through them.

`states` lets a run go on where another has ended (truncated BPTT): one state for each recurrent layer of the model, in
forward order. A layer takes the first of them and appends the one it ends with to `ended`, so what comes out of the
model as `ended` are the `states` of the next chunk.

Layers that know nothing of time act on the values: `MapValues(LayerNorm())` keeps lengths and states beside them, and
behind `DropLengths()` there are values alone, as a loss expects them. A `Context` carries a memory in the same way.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from jaxbp.core.composite import Composite
from jaxbp.core.errors import LayerError, require_floating
from jaxbp.core.layer import Layer
from jaxbp.core.numerics import is_concrete
from jaxbp.core.text import describe

State = tuple[Array, ...]  # (h,) or, of an LSTM, (h, c), each [n, outputs]


class Sequences(NamedTuple):
    """Values, how many of the t times are real (None: all), and the states to begin with (None: zeros).

    Their gradient is a Sequences too, with None in place of the lengths, which are integers.
    """

    values: Any
    lengths: Any = None
    states: tuple[State, ...] | None = None
    ended: tuple[State, ...] = ()


class Context(NamedTuple):
    """x [n, t, f], a memory [n, s, m] for it to look at (None: x itself), and who may look at whom.

    x and memory are arrays or `Sequences`, whose padding nobody looks at. mask: bool [n, s], [n, t, s] or [n, h, t, s],
    True where x may look at the memory; None: everywhere.
    """

    x: Any
    memory: Any = None
    mask: Any = None


def values_of(x: PyTree) -> Any:
    """The array alone, of a `Context` that of its x."""
    x = x.x if isinstance(x, Context) else x
    return x.values if isinstance(x, Sequences) else x


def with_values(x: PyTree, values: Any) -> PyTree:
    """The same around other values."""
    if isinstance(x, Context):
        return x._replace(x=with_values(x.x, values))
    return x._replace(values=values) if isinstance(x, Sequences) else values


def in_time(x: Array, lengths: Array) -> Bool[Array, "n t"]:
    """Whether a time is real: t < lengths[n]."""
    return jnp.arange(x.shape[1]) < lengths[:, None]


def require_sequences(layer: Layer, x: PyTree) -> None:
    """Raises if x is not a batch of sequences."""
    values = values_of(x)
    require_floating(layer, values)
    if len(values.shape) != 3:
        raise LayerError(layer, f"expected [examples, time, features], got {describe(values)}")
    if 0 in values.shape[1:]:
        raise LayerError(layer, f"expected at least one time and one feature, got {describe(values)}")
    if not isinstance(x, Sequences):
        return
    if x.lengths is None and x.states is None:
        raise LayerError(layer, "Sequences without lengths and states are an array: give the values alone")
    if x.lengths is not None:
        require_lengths(layer, x.lengths, *values.shape[:2])
    if x.states is not None and not (isinstance(x.states, tuple) and x.states):
        left = "none is left" if isinstance(x.states, tuple) else f"got {describe(x.states)}"
        problem = f"expected a tuple with one state for each recurrent layer, {left}"
        raise LayerError(layer, f"{problem}; jaxbp.initial_states(model, examples) gives zeros")


def require_lengths(layer: Layer, lengths: Any, n: int, times: int) -> None:
    """Refuses what are no lengths of n sequences; values are looked at outside jit only."""
    if not hasattr(lengths, "dtype") or not jnp.issubdtype(lengths.dtype, jnp.integer) or lengths.shape != (n,):
        raise LayerError(layer, f"expected one integer length for each of {n} sequences, got {describe(lengths)}")
    if is_concrete(lengths):
        lengths = np.asarray(lengths)
        wrong = (lengths < 0) | (lengths > times)
        if wrong.any():
            first = int(np.argmax(wrong))
            problem = f"expected lengths from 0 to {times}, the times of the array"
            raise LayerError(layer, f"{problem}, got {int(lengths[first])} for sequence {first}")


@dataclass(frozen=True)
class MapValues(Composite):
    """Applies a layer to the values of `Sequences` or to the x of a `Context`; what is beside them stays there."""

    body: Layer

    def wire(self, call, x):
        return with_values(x, call("body", values_of(x)))

    def forward(self, params, x, rng=None):
        y, residuals = super().forward(params, x, rng)
        if isinstance(x, Sequences) and y.values.shape[:2] != x.values.shape[:2]:
            problem = f"the body maps {describe(x.values)} to {describe(y.values)}: the lengths would no longer fit"
            raise LayerError(self, f"{problem}; take DropLengths() first")
        return y, residuals


@dataclass(frozen=True)
class DropLengths(Layer):
    """The values of `Sequences` without their lengths, for a loss or a layer that takes an array."""

    position_wise = True

    def forward(self, params, x, rng=None):
        if isinstance(x, Sequences) and x.states is not None:
            raise LayerError(self, "the states would be lost; apply the layers behind with MapValues")
        if isinstance(x, Context):
            raise LayerError(self, "the memory would be lost; take DropMemory() first")
        return values_of(x), x.lengths if isinstance(x, Sequences) else None

    def input_gradient(self, params, lengths, g):
        return g if lengths is None else Sequences(g)
