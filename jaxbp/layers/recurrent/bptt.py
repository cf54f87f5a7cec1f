"""What recurrent layers share: the run through time, and backpropagation through time.

Each is two layers, one after the other. Let n run over examples, t over times, h over outputs, and k over the
pre-activations of all gates (1, 3 or 4 times as many as outputs):

    input        z[n,t,k] = Σ_i x[n,t,i] W[i,k]              a Dense layer: all times in one matmul
    recurrent    s[n,t] = step(z[n,t], s[n,t-1]; U)          the state s: h alone, or (h, c) in an LSTM

A step takes in the state before through p[n,t,k] = Σ_h h[n,t-1,h] U[h,k] + b[k] (and element by element where a cell
carries it on). Let δ[n,t] = ∂J/∂z[n,t], γ[n,t] = ∂J/∂p[n,t], and ∂s[n,t] = ∂J/∂s[n,t] in full:

    from t = T down to 1:   ∂s[n,t] = g[n,t] + what comes back from t+1
                            δ, γ and the way back to s[n,t-1] by the cell's `step_back`
    after the scan:         ∂J/∂U[h,k] = Σ_{n,t} h[n,t-1,h] γ[n,t,k]       one matmul over time and batch
                            ∂J/∂b[k] = Σ_{n,t} γ[n,t,k]
                            ∂J/∂W and ∂J/∂x from δ, as in any Dense layer

So the scan carries deltas only. δ = γ but for the GRU, in which a gate comes between; its Dense layer has a bias too.

What a step keeps for the way back is written over z, and δ is written over what was kept: both scans work in place.
The hidden states are the output itself. Fewer arrays are not only less memory: what has to be fetched anew from the
operating system at every call (on Linux all that is above 32 MiB) costs more time than a step's arithmetic.

On CPU XLA keeps what is element by element in a step on the core on which the matmul before it ended, and has the other
core woken for the next matmul. So a step ahead is taken by half the examples and the other half, each with its matmul,
side by side; on the way back, where all of γ is multiplied, each half of ∂h has a matmul of its own.

In padding the state stands still, the output is zero, and so is δ.

Sources: Werbos, Backpropagation Through Time, Proc. IEEE 78 (1990); Gal & Ghahramani, arXiv 1512.05287 (dropout with
one mask for all times).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from jaxbp.core import chunking as cpu
from jaxbp.core.errors import LayerError
from jaxbp.core.layer import Layer
from jaxbp.core.numerics import contract
from jaxbp.core.paths import layers
from jaxbp.core.text import describe
from jaxbp.initializers import Initializer, Orthogonal
from jaxbp.layers.sequences import Sequences, State, in_time, require_sequences, values_of

Buffers = tuple[Array, ...]

LARGE = 2**22  # multiplications of one time that are worth two matmuls
MANY = 32  # examples; with fewer a matmul mostly waits for the weight


class Kept(NamedTuple):
    """The residuals. None: no lengths, zeros to begin with, no dropout."""

    hidden: Float[Array, "n t h"]
    buffers: Buffers
    lengths: Array | None
    initial: Float[Array, "n h"] | None
    mask: Float[Array, "n h"] | None


@dataclass(frozen=True)
class Recurrence(Layer):
    """The recurrent half, from z [n, t, k] to h [n, t, outputs]. A cell gives `step` and `step_back`.

    gates: how many times as many pre-activations as outputs.
    beside: how many arrays [n, t, outputs] a step needs beside z for what it keeps.
    """

    outputs: int
    last: bool = False
    reverse: bool = False
    dropout: float = 0.0
    initializer: Initializer = Orthogonal()

    gates = 1
    beside = 0

    def zero_state(self, n: int, dtype: Any) -> State:
        """The state that a run begins with unless told otherwise."""
        return (jnp.zeros((n, self.outputs), dtype),)

    def step(self, z: Array, p: Array, state: State) -> tuple[State, Buffers]:
        """One time: s[n,t] and what is kept, first over z, from z[n,t], p[n,t] and s[n,t-1]."""
        raise NotImplementedError

    def step_back(self, kept: Buffers, before: Array, d: State) -> tuple[Buffers, Array, State]:
        """The same time on the way back, from ∂s[n,t] = d and before = h[n,t-1].

        Returns what is written over what was kept, δ[n,t] first; γ[n,t]; and ∂J/∂s[n,t-1] but for the way through p.
        """
        raise NotImplementedError

    def hidden_deltas(self, written: Buffers) -> Float[Array, "n t k"]:
        """γ of all times, from what the steps back have written."""
        return written[0]

    def hidden_before(self, kept: Kept, written: Buffers) -> Float[Array, "n t h"]:
        """h[n,t-1] of all times: the hidden states one time later, the initial state first."""
        shifted = jnp.roll(kept.hidden, -1 if self.reverse else 1, 1)
        return jnp.where(self._has_past(kept)[..., None], shifted, self._first(kept)[:, None])

    def init(self, key, x):
        dtype = values_of(x).dtype
        weight = self.initializer(key, (self.outputs, self.gates * self.outputs), dtype)
        return {"weight": weight, "bias": jnp.zeros(self.gates * self.outputs, dtype)}

    def forward(self, params, x, rng=None, bias: Float[Array, " k"] | float = 0.0):
        """`bias` is what is still to be added to z."""
        require_sequences(self, x)
        self._require_params(params)
        z, lengths, states, ended = x if isinstance(x, Sequences) else Sequences(x)
        n, times, _ = z.shape
        state = self.zero_state(n, z.dtype) if states is None else self._required(states[0], n)
        if self.last and states is not None:
            raise LayerError(self, "with last=True the states would be lost; the last output is in the final state")
        real = None if lengths is None else in_time(z, lengths)
        mask, initial = self._mask(rng, z), None if states is None else state[0]

        shares = self._halves(n, n)

        def ahead(share, state, z, t):
            h = state[0] if mask is None else state[0] * mask[share]
            p = contract("nh,hk->nk", h, params["weight"], dtype=h.dtype) + params["bias"]
            new, kept = self.step(take(z[share], t) + bias, p, state)
            return new if real is None else where(real[share, t], new, state), kept

        def turn(i, carry):
            parts, hidden, buffers = carry
            t = times - 1 - i if self.reverse else i
            steps = (ahead(share, part, buffers[0], t) for share, part in zip(shares, parts, strict=True))
            parts, kept = zip(*steps, strict=True)
            return parts, put(hidden, joined(parts)[0], t), put(buffers, joined(kept), t)

        # Empty, for each time is written once.
        hidden, *beside = (lax.empty((n, times, self.outputs), z.dtype) for _ in range(1 + self.beside))
        start = tuple(jax.tree.map(lambda a: a[share], state) for share in shares)  # noqa: B023
        parts, hidden, buffers = lax.fori_loop(0, times, turn, (start, hidden, (z, *beside)))
        state = joined(parts)
        if real is not None:
            hidden = jnp.where(real[..., None], hidden, 0)
        y = state[0] if self.last else hidden
        if isinstance(x, Sequences) and not self.last:
            y = x._replace(values=hidden)
            if states is not None:
                y = y._replace(states=states[1:], ended=(*ended, state))
        return y, Kept(hidden, buffers, lengths, initial, mask)

    def input_gradient(self, params, kept, g):
        (delta, *_), d = self._back(params, kept, g)
        if kept.lengths is None and kept.initial is None:
            return delta
        if kept.initial is None:
            return Sequences(delta)
        return Sequences(delta, None, (d, *g.states), g.ended[:-1])

    def param_gradient(self, params, kept, g):
        written, _ = self._back(params, kept, g)
        return self.gradient(params, self._inputs(kept, written), self.hidden_deltas(written))

    def gradient(self, params, before: Float[Array, "n t h"], gamma: Float[Array, "n t c"]):
        """∂J/∂U and ∂J/∂b, all columns of them or some."""
        weight = contract("nh,nk->hk", rows(before), rows(gamma), dtype=params["weight"].dtype)
        return {"weight": weight, "bias": jnp.sum(gamma, (0, 1)).astype(params["bias"].dtype)}

    def affine(self, params, kept, g):
        """h[n,t-1] behind the dropout, and γ[n,t]."""
        written, _ = self._back(params, kept, g)
        return self._inputs(kept, written), self.hidden_deltas(written)

    def _inputs(self, kept: Kept, written: Buffers) -> Float[Array, "n t h"]:
        before = self.hidden_before(kept, written)
        return before if kept.mask is None else before * kept.mask[:, None]

    def _back(self, params, kept: Kept, g: PyTree) -> tuple[Buffers, State]:
        """What the steps back write, and ∂J/∂s[n,0]. Under jit the gradients share one scan: XLA sees the same."""
        n, times, _ = kept.hidden.shape
        real = None if kept.lengths is None else in_time(kept.hidden, kept.lengths)
        d = self.zero_state(n, kept.hidden.dtype) if kept.initial is None else g.ended[-1]
        if self.last:
            d = (d[0] + values_of(g), *d[1:])
        above, has_past, first = values_of(g), self._has_past(kept), self._first(kept)
        weights = [params["weight"][half] for half in self._halves(self.outputs, n)]

        def turn(i, carry):
            d, buffers, here = carry
            t, past = (i, i + 1) if self.reverse else (times - 1 - i, times - 2 - i)
            full = d if self.last else (d[0] + take(above, t), *d[1:])
            before = jnp.where(has_past[:, t, None], take(kept.hidden, past), first)
            new, gamma, d_past = self.step_back(here, before, full)
            dh = joined([contract("nk,hk->nh", gamma, weight, dtype=gamma.dtype) for weight in weights], -1)
            d_past = (d_past[0] + (dh if kept.mask is None else dh * kept.mask), *d_past[1:])
            if real is not None:
                d_past = where(real[:, t], d_past, d)
                new = where(real[:, t], new, jax.tree.map(jnp.zeros_like, new))
            buffers = put(buffers, new, t)
            return d_past, buffers, take(buffers, past)

        # What the next turn reads is taken after this one has written: else XLA would copy the buffers at every turn.
        start = d, kept.buffers, take(kept.buffers, 0 if self.reverse else times - 1)
        d, written, _ = lax.fori_loop(0, times, turn, start)
        return written, d

    def _halves(self, of: int, n: int) -> list[slice]:
        """Two slices on CPU (why, is said above) if the matmul of one time is large enough to gain by it; else one."""
        worth = cpu.on_cpu() and n >= MANY and n * self.outputs * self.gates * self.outputs >= LARGE
        return [slice(of // 2), slice(of // 2, of)] if worth and of > 1 else [slice(of)]

    def _has_past(self, kept: Kept) -> Bool[Array, "n t"]:
        """Whether a time is not the first of its run. From the end, the run begins behind the padding."""
        n, times, _ = kept.hidden.shape
        t = jnp.arange(times)
        if not self.reverse:
            return jnp.broadcast_to(t > 0, (n, times))
        ends = times if kept.lengths is None else kept.lengths[:, None]
        return jnp.broadcast_to(t + 1 < ends, (n, times))

    def _first(self, kept: Kept) -> Float[Array, "n h"]:
        return jnp.zeros_like(kept.hidden[:, 0]) if kept.initial is None else kept.initial

    def _mask(self, rng, z):
        if rng is None or self.dropout == 0:
            return None
        keep = 1 - self.dropout
        return jax.random.bernoulli(rng, keep, (z.shape[0], self.outputs)).astype(z.dtype) / keep

    def _require_params(self, params):
        shape = (self.outputs, self.gates * self.outputs)
        if not isinstance(params, dict) or set(params) != {"weight", "bias"} or params["weight"].shape != shape:
            problem = f"expected parameters {{weight {list(shape)}, bias}}, got {describe(params)}"
            raise LayerError(self, f"{problem}; do they come from this model's init?")

    def _required(self, state, n):
        want = self.zero_state(n, jnp.float32)
        if not isinstance(state, tuple) or [jnp.shape(a) for a in state] != [a.shape for a in want]:
            shapes = ", ".join(str(list(a.shape)) for a in want)
            raise LayerError(self, f"expected a state ({shapes}), got {describe(state)}")
        return state


def rows(a: Float[Array, "n t k"]) -> Float[Array, "nt k"]:
    """All times of all examples, one below the other: XLA contracts matrices without copying them."""
    return a.reshape(-1, a.shape[-1])


def take(tree: PyTree, t: Array | int) -> PyTree:
    """Of arrays [n, t, ...] those at one time."""
    return jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, t, 1, keepdims=False), tree)


def put(tree: PyTree, at: PyTree, t: Array | int) -> PyTree:
    """Arrays [n, t, ...] with one time overwritten; in place under jit."""
    return jax.tree.map(lambda a, b: lax.dynamic_update_index_in_dim(a, b, t, 1), tree, at)


def joined(trees: Sequence[PyTree], axis: int = 0) -> PyTree:
    """What was done in parts, put together."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis), *trees)


def where(real: Array, new: PyTree, old: PyTree) -> PyTree:
    """Of arrays [n, ...] the new ones for the examples whose time is real."""
    return jax.tree.map(lambda a, b: jnp.where(real[:, None], a, b), new, old)


def initial_states(model: Layer, examples: int, dtype: Any = jnp.float32) -> tuple[State, ...]:
    """Zeros for every recurrent layer of a model, in forward order: the `states` of the first chunk."""
    cells = [layer for _, layer in layers(model) if isinstance(layer, Recurrence)]
    if not cells:
        raise ValueError(f"there is no recurrent layer in {model}")
    return tuple(cell.zero_state(examples, dtype) for cell in cells)
