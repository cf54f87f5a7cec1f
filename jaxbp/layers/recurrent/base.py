"""A recurrent layer: a Dense layer for the inputs of all times, then the run through time (see `bptt.py`)."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core.errors import located, require_positive
from jaxbp.core.layer import Layer
from jaxbp.core.paths import part
from jaxbp.core.sweep import Composite
from jaxbp.initializers import Initializer, LeCun, Orthogonal
from jaxbp.layers.dense import Dense
from jaxbp.layers.recurrent.bptt import Recurrence
from jaxbp.layers.sequences import Sequences, in_time, require_sequences, values_of, with_values


class TwoHalves(Composite):
    """Maps x through "input", at each time, and what comes out of that through "recurrent"."""

    def rebuild(self, children):
        return Halves(**children)

    def init(self, key, x):
        require_sequences(self, x)
        children, keys = self.children, jax.random.split(key)
        with located("input"):
            params = {"input": children["input"].init(keys[0], values_of(x))}
        with located("recurrent"):
            return params | {"recurrent": children["recurrent"].init(keys[1], x)}

    def forward(self, params, x, rng=None):
        require_sequences(self, x)
        values = values_of(x)
        if isinstance(x, Sequences) and x.lengths is not None:  # a NaN in padding would spoil Σ x δ, though δ is zero
            values = jnp.where(in_time(values, x.lengths)[..., None], values, 0)
        children = self.children
        with located("input"):
            z, kept_input, *bias = self.project(part(params, "input"), values)
        with located("recurrent"):
            y, kept = children["recurrent"].forward(part(params, "recurrent"), with_values(x, z), rng, *bias)
        return y, {"input": kept_input, "recurrent": kept}

    def project(self, params, x):
        """z and the residuals of the input half, and what is still to be added to z, if anything."""
        return self.children["input"].forward(params, x)

    def backward(self, walk, params, feedback, residuals, g):
        def trees(name):
            return part(params, name), part(feedback, name), part(residuals, name)

        dz, recurrent = walk("recurrent", *trees("recurrent"), g)
        dx, inputs = walk("input", *trees("input"), values_of(dz))
        return with_values(dz, dx), {"input": inputs, "recurrent": recurrent}


@dataclass(frozen=True)
class Halves(TwoHalves):
    """Any two halves."""

    input: Layer
    recurrent: Layer

    @property
    def children(self):
        return {"input": self.input, "recurrent": self.recurrent}


@dataclass(frozen=True)
class Recurrent(TwoHalves):
    """A recurrent layer in its two halves, "input" and "recurrent". A subclass names its cell.

    Maps [n, t, inputs] to [n, t, outputs], or `Sequences` of these.

    Args:
        outputs: number of output features, positive.
        last: whether to return the last output alone, [n, outputs], as an array.
        reverse: whether time runs from the last to the first.
        dropout: the probability that an output is hidden from the steps that follow, in training; one draw for all
            times (`SpatialDropout` in front does the same for the inputs).
        initializer: draws the input weight [inputs, gates * outputs].
        recurrent_initializer: draws the recurrent weight [outputs, gates * outputs].
    """

    outputs: int
    last: bool = False
    reverse: bool = False
    dropout: float = 0.0
    initializer: Initializer = LeCun()
    recurrent_initializer: Initializer = Orthogonal()

    cell = Recurrence
    input_bias = False

    def __post_init__(self):
        require_positive(self, outputs=self.outputs)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{type(self).__name__} needs 0 <= dropout < 1, not {self.dropout}")

    @property
    def children(self):
        cell = self.cell(self.outputs, self.last, self.reverse, self.dropout, self.recurrent_initializer)
        return {"input": Dense(cell.gates * self.outputs, self.input_bias, self.initializer), "recurrent": cell}

    def project(self, params, x):
        """The bias is left to the steps: a pass over all times would take an array more and longer than theirs."""
        dense = self.children["input"]
        if not dense.bias:
            return dense.forward(params, x)
        dense.require_params(params, x)
        return *dataclasses.replace(dense, bias=False).forward({"weight": params["weight"]}, x), params["bias"]
