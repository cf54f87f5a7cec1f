"""Backpropagation through time: the scan that recurrent layers share.

A recurrent layer is two Dense layers and a scan between them. Let n run over examples, t over times, h over outputs,
and k over the pre-activations of all gates (1, 3 or 4 times as many as outputs):

    input        z[n,t,k] = Σ_i x[n,t,i] W[i,k]              a Dense layer: all times in one matmul
    recurrent    p[n,t,k] = Σ_h h[n,t-1,h] U[h,k] + b[k]     a Dense layer, inside the scan
    the cell     s[n,t] = step(z[n,t], p[n,t], s[n,t-1])     the state s: h alone, or (h, c) in an LSTM

Let δ[n,t] = ∂J/∂z[n,t], γ[n,t] = ∂J/∂p[n,t], and ∂s[n,t] = ∂J/∂s[n,t] in full:

    from t = T down to 1:   ∂s[n,t] = g[n,t] + what comes back from t+1
                            δ, γ and ∂s[n,t-1] by the cell's `step_back`, and ∂h[n,t-1] += γ[n,t] Uᵀ
    after the scan:         the recurrent layer is visited once, as a Dense layer with inputs h[n,t-1] and deltas γ[n,t]
                            the input layer likewise, with inputs x[n,t] and deltas δ[n,t]

So the scan carries deltas only, and all that is known of Dense layers (gradients as one matmul over time and batch,
per-example norms, Kronecker factors, feedback) is known of recurrent ones. δ = γ but for the GRU, in which a gate comes
between.

What a step keeps for the backward pass is written over z, and δ is written over what was kept: both scans work in
place. The hidden states are the output itself. Fewer arrays are not only less memory: what has to be fetched anew from
the operating system at every call (on Linux all that is above 32 MiB) costs more time than a step's arithmetic.

On CPU XLA keeps what is element by element in a step on the core on which the matmul before it ended, and has the other
core woken for the next matmul. So a step ahead is taken by half the examples and the other half, each with its matmul,
side by side; on the way down, where all of γ is multiplied, each half of ∂h has a matmul of its own.

In padding the state stands still, the output is zero, and so is δ.

Source: Werbos, Backpropagation Through Time, Proc. IEEE 78 (1990).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from jaxbp.core import chunking
from jaxbp.core.layer import Params
from jaxbp.core.numerics import contract
from jaxbp.layers.sequences import State, in_time

Buffers = tuple[Array, ...]

LARGE = 2**22  # multiplications of one time that are worth two matmuls
MANY = 32  # examples; with fewer a matmul mostly waits for the weight


@runtime_checkable
class Cell(Protocol):
    """What happens at one time.

    gates: how many times as many pre-activations as outputs.
    beside: how many arrays [n, t, outputs] a step needs beside z for what it keeps.
    """

    outputs: int
    last: bool
    reverse: bool
    gates: int
    beside: int

    def zero_state(self, n: int, dtype: Any) -> State:
        """The state that a run begins with unless told otherwise."""

    def step(self, z: Array, p: Array, state: State) -> tuple[State, Buffers]:
        """One time: s[n,t] and what is kept, first over z, from z[n,t], p[n,t] and s[n,t-1]."""

    def step_back(self, kept: Buffers, before: Array, d: State) -> tuple[Buffers, Array, State]:
        """The same time in the backward pass, from ∂s[n,t] = d and before = h[n,t-1].

        Returns what is written over what was kept, δ[n,t] first; γ[n,t]; and ∂J/∂s[n,t-1] but for what comes through p.
        """

    def hidden_deltas(self, written: Buffers) -> Float[Array, "n t k"]:
        """γ of all times, from what the steps back have written."""

    def hidden_before(self, kept: "Kept", written: Buffers) -> Float[Array, "n t h"]:
        """h[n,t-1] of all times."""


class Kept(NamedTuple):
    """The residuals of a run. None: no lengths, zeros to begin with, no dropout."""

    hidden: Float[Array, "n t h"]
    buffers: Buffers
    lengths: Array | None
    initial: Float[Array, "n h"] | None
    mask: Float[Array, "n h"] | None


def run(
    cell: Cell, params: Params, z: Array, bias: Any, lengths: Array | None, state: State | None, mask: Array | None
) -> tuple[Array, State, Kept]:
    """Forward in time: the hidden states [n, t, h], the last state, and what is kept.

    `params` are those of the recurrent Dense layer, `bias` what is still to be added to z.
    """
    n, times, _ = z.shape
    initial = None if state is None else state[0]
    state = cell.zero_state(n, z.dtype) if state is None else state
    real = None if lengths is None else in_time(z, lengths)
    shares = halves(cell, n, n)

    def ahead(share, state, z, t):
        h = state[0] if mask is None else state[0] * mask[share]
        p = contract("nh,hk->nk", h, params["weight"], dtype=h.dtype) + params["bias"]
        new, kept = cell.step(take(z[share], t) + bias, p, state)
        return new if real is None else where(real[share, t], new, state), kept

    def step(i, carry):
        parts, hidden, buffers = carry
        t = times - 1 - i if cell.reverse else i
        steps = (ahead(share, part, buffers[0], t) for share, part in zip(shares, parts, strict=True))
        parts, kept = zip(*steps, strict=True)
        return parts, put(hidden, joined(parts)[0], t), put(buffers, joined(kept), t)

    # Empty, for each time is written once.
    hidden, *beside = (lax.empty((n, times, cell.outputs), z.dtype) for _ in range(1 + cell.beside))
    start = tuple(jax.tree.map(lambda a: a[share], state) for share in shares)  # noqa: B023
    parts, hidden, buffers = lax.fori_loop(0, times, step, (start, hidden, (z, *beside)))
    if real is not None:
        hidden = jnp.where(real[..., None], hidden, 0)
    return hidden, joined(parts), Kept(hidden, buffers, lengths, initial, mask)


def run_back(
    cell: Cell, weight: Float[Array, "h k"], kept: Kept, above: Array | None, d: State
) -> tuple[Buffers, State]:
    """Backward in time: what the steps back write, and ∂J/∂s[n,0].

    `above` is ∂J/∂h of all times (None: zero), d = ∂J/∂s[n,T], and `weight` what γ is sent through.
    """
    n, times, _ = kept.hidden.shape
    real = None if kept.lengths is None else in_time(kept.hidden, kept.lengths)
    past_exists, first = has_past(cell, kept), first_hidden(kept)
    weights = [weight[half] for half in halves(cell, cell.outputs, n)]

    def step(i, carry):
        d, buffers, here = carry
        t, past = (i, i + 1) if cell.reverse else (times - 1 - i, times - 2 - i)
        full = d if above is None else (d[0] + take(above, t), *d[1:])
        before = jnp.where(past_exists[:, t, None], take(kept.hidden, past), first)
        new, gamma, d_past = cell.step_back(here, before, full)
        dh = joined([contract("nk,hk->nh", gamma, weight, dtype=gamma.dtype) for weight in weights], -1)
        d_past = (d_past[0] + (dh if kept.mask is None else dh * kept.mask), *d_past[1:])
        if real is not None:
            d_past = where(real[:, t], d_past, d)
            new = where(real[:, t], new, jax.tree.map(jnp.zeros_like, new))
        buffers = put(buffers, new, t)
        return d_past, buffers, take(buffers, past)

    # What the next step reads is taken after this one has written: else XLA would copy the buffers at every step.
    start = d, kept.buffers, take(kept.buffers, 0 if cell.reverse else times - 1)
    d, written, _ = lax.fori_loop(0, times, step, start)
    return written, d


def shifted_hidden(cell: Cell, kept: Kept) -> Float[Array, "n t h"]:
    """h[n,t-1] of all times: the hidden states one time later, the initial state first."""
    shifted = jnp.roll(kept.hidden, -1 if cell.reverse else 1, 1)
    return jnp.where(has_past(cell, kept)[..., None], shifted, first_hidden(kept)[:, None])


def has_past(cell: Cell, kept: Kept) -> Bool[Array, "n t"]:
    """Whether a time is not the first of its run. In reverse, the run begins behind the padding."""
    n, times, _ = kept.hidden.shape
    t = jnp.arange(times)
    if not cell.reverse:
        return jnp.broadcast_to(t > 0, (n, times))
    ends = times if kept.lengths is None else kept.lengths[:, None]
    return jnp.broadcast_to(t + 1 < ends, (n, times))


def first_hidden(kept: Kept) -> Float[Array, "n h"]:
    """The hidden state that the run began with."""
    return jnp.zeros_like(kept.hidden[:, 0]) if kept.initial is None else kept.initial


def halves(cell: Cell, of: int, n: int) -> list[slice]:
    """Two slices on CPU (why, is said above) if the matmul of one time is large enough to gain by it; else one."""
    worth = chunking.on_cpu() and n >= MANY and n * cell.outputs * cell.gates * cell.outputs >= LARGE
    return [slice(of // 2), slice(of // 2, of)] if worth and of > 1 else [slice(of)]


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
