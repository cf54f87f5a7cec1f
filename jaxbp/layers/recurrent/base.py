"""A recurrent layer: a Dense layer for the inputs of all times, and a Dense layer in a scan (see `bptt.py`).

Source: Gal & Ghahramani, arXiv 1512.05287 (dropout with one mask for all times).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbp.core.composite import Composite
from jaxbp.core.errors import LayerError, located, require_params, require_positive
from jaxbp.core.layer import Layer
from jaxbp.core.paths import layers, part
from jaxbp.core.stepwise import Stepwise
from jaxbp.core.text import describe
from jaxbp.initializers import Initializer, LeCun, Orthogonal
from jaxbp.layers.dense import Dense
from jaxbp.layers.recurrent.bptt import Buffers, Kept, run, run_back, shifted_hidden
from jaxbp.layers.sequences import Sequences, State, in_time, require_sequences, values_of


@dataclass(frozen=True)
class Recurrent(Composite):
    """Maps [n, t, inputs] to [n, t, outputs], or `Sequences` of these. A subclass gives the cell (see `bptt.Cell`).

    Its children are the two Dense layers "input" and "recurrent".

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

    gates = 1
    beside = 0
    input_bias = False

    def __post_init__(self):
        require_positive(self, outputs=self.outputs)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{type(self).__name__} needs 0 <= dropout < 1, not {self.dropout}")

    def make_children(self):
        features = self.gates * self.outputs
        return {
            "input": Dense(features, self.input_bias, self.initializer),
            "recurrent": Dense(features, True, self.recurrent_initializer),
        }

    def zero_state(self, n: int, dtype: Any) -> State:
        return (jnp.zeros((n, self.outputs), dtype),)

    def hidden_deltas(self, written: Buffers) -> Float[Array, "n t k"]:
        return written[0]

    def hidden_before(self, kept: Kept, written: Buffers) -> Float[Array, "n t h"]:
        return shifted_hidden(self, kept)

    def init(self, key, x):
        require_sequences(self, x)
        values, children, keys = values_of(x), self.children, jax.random.split(key)
        hidden = jax.ShapeDtypeStruct((*values.shape[:2], self.outputs), values.dtype)
        params = {}
        for name, k, like in zip(children, keys, (values, hidden), strict=True):
            with located(name):
                params[name] = children[name].init(k, like)
        return params

    def forward(self, params, x, rng=None):
        require_sequences(self, x)
        self.require_params(params)
        shapes = {"weight": (self.outputs, self.gates * self.outputs), "bias": (self.gates * self.outputs,)}
        with located("recurrent"):
            require_params(self.children["recurrent"], params["recurrent"], shapes)
        values, lengths, states, ended = x if isinstance(x, Sequences) else Sequences(x)
        n = values.shape[0]
        state = None if states is None else self._required(states[0], n)
        if self.last and states is not None:
            raise LayerError(self, "with last=True the states would be lost; the last output is in the final state")
        if lengths is not None:  # a NaN in padding would spoil Σ x δ, though δ is zero
            values = jnp.where(in_time(values, lengths)[..., None], values, 0)
        with located("input"):
            z, kept_input, bias = self._project(params["input"], values)
        hidden, state, kept = run(self, params["recurrent"], z, bias, lengths, state, self._mask(rng, z))
        residuals = {"input": kept_input, "recurrent": kept}
        if self.last:
            return state[0], residuals
        if not isinstance(x, Sequences):
            return hidden, residuals
        if states is None:
            return x._replace(values=hidden), residuals
        return Sequences(hidden, lengths, states[1:], (*ended, state)), residuals

    def backward(self, walk, params, feedback, residuals, g):
        kept, recurrent = residuals["recurrent"], part(params, "recurrent")
        carried = kept.initial is not None
        d = g.ended[-1] if carried else self.zero_state(kept.hidden.shape[0], kept.hidden.dtype)
        above = values_of(g)
        if self.last:
            d, above = (d[0] + above, *d[1:]), None
        sent_through = part(feedback, "recurrent") or recurrent
        written, d = run_back(self, sent_through["weight"], kept, above, d)
        before = self.hidden_before(kept, written)
        before = before if kept.mask is None else before * kept.mask[:, None]
        child, collected = self.children["recurrent"], {}
        _, seen = child.forward(recurrent, before)  # its residuals; under jit its outputs are not computed again
        trees = recurrent, part(feedback, "recurrent"), seen
        _, collected["recurrent"] = walk("recurrent", *trees, self.hidden_deltas(written))
        trees = part(params, "input"), part(feedback, "input"), residuals["input"]
        dx, collected["input"] = walk("input", *trees, written[0])
        if carried:
            dx = Sequences(dx, None, (d, *g.states), g.ended[:-1])
        elif kept.lengths is not None:
            dx = Sequences(dx)
        return dx, self.collect(collected)

    def refresh(self, params, residuals):
        return params

    def stepwise(self, length):
        if self.reverse or self.last:
            raise LayerError(self, "it needs all of the text at once: generating needs reverse=False and last=False")
        return StepwiseRecurrent(self)

    def _project(self, params, x):
        """z, the residuals, and the bias that is left to the steps: a pass over all times would take longer."""
        dense = self.children["input"]
        if not isinstance(dense, Dense) or not dense.bias:
            return *dense.forward(params, x), 0.0
        dense.require_params(params, x)
        return *dataclasses.replace(dense, bias=False).forward({"weight": params["weight"]}, x), params["bias"]

    def _mask(self, rng, z):
        if rng is None or self.dropout == 0:
            return None
        keep = 1 - self.dropout
        return jax.random.bernoulli(rng, keep, (z.shape[0], self.outputs)).astype(z.dtype) / keep

    def _required(self, state, n):
        want = self.zero_state(n, jnp.float32)
        if not isinstance(state, tuple) or [jnp.shape(a) for a in state] != [a.shape for a in want]:
            shapes = ", ".join(str(list(a.shape)) for a in want)
            raise LayerError(self, f"expected a state ({shapes}), got {describe(state)}")
        return state


@dataclass(frozen=True)
class StepwiseRecurrent(Stepwise):
    """A recurrent layer of x [n, t, f], the next t positions; it keeps its state."""

    layer: Recurrent

    def forward(self, params, x, rng=None):
        params, state = params
        y = self.layer(params, Sequences(x, None, (state or self.layer.zero_state(x.shape[0], x.dtype),)))
        return y.values, y.ended[0]


def initial_states(model: Layer, examples: int, dtype: Any = jnp.float32) -> tuple[State, ...]:
    """Zeros for every recurrent layer of a model, in forward order: the `states` of the first chunk."""
    recurrent = [layer for _, layer in layers(model) if isinstance(layer, Recurrent)]
    if not recurrent:
        raise ValueError(f"there is no recurrent layer in {model}")
    return tuple(layer.zero_state(examples, dtype) for layer in recurrent)
