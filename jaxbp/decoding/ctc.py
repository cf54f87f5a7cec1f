"""From CTC's logits to labels: the best path, and the best labels.

An alignment a_1 … a_T says the labels that are left when repeats are merged and blanks dropped. Greedy decoding takes
the most probable alignment, one frame at a time; but labels have many alignments, and those with the largest sum are
wanted. Prefix beam search keeps a few prefixes, each with the probability of all alignments that say it so far, in two
parts: b of those that end in the blank, l of those that end in the prefix's last label. At a frame with class
probabilities p, prefix s with last label e goes on as

    s      b' = (b + l) p_blank          l' = l p_e  (+ what s without e brings, if that is kept too)
    s c    l' = (b + l) p_c, for c = e: b p_e, since a label is repeated only across a blank

and the most probable of these are kept. With as many beams as there are prefixes nothing is lost: the sum is exact.

Sources: Graves et al., ICML 2006, section 3.2; Hannun et al., arXiv 1408.2873 (prefixes of two parts).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxbp.core.layer import ArrayLike
from jaxbp.core.numerics import is_concrete
from jaxbp.core.text import describe


class Decoded(NamedTuple):
    """What was heard, [n, ...]; the beams of `beam_decode` are a second axis, the best one first.

    labels: [..., t], the blank behind their lengths.
    lengths: how many labels there are.
    log_probability: of the one best alignment (greedy), of all alignments seen (beam search); -inf: no such beam.
    """

    labels: Int[Array, "*n t"]
    lengths: Int[Array, "*n"]
    log_probability: Float[Array, "*n"]


def greedy_decode(
    logits: Float[Array, "n t classes"], logit_lengths: ArrayLike | None = None, blank: int = 0
) -> Decoded:
    """The labels of the most probable alignment.

    Args:
        logits: the outputs of a model trained with `CTC`.
        logit_lengths: how many frames count, integers [n]; None: all of them.
        blank: the class that stands for no label.
    """
    return _greedy(logits, _lengths(logits, logit_lengths, blank), blank)


def beam_decode(
    logits: Float[Array, "n t classes"], logit_lengths: ArrayLike | None = None, blank: int = 0, beams: int = 16
) -> Decoded:
    """The most probable labels, by prefix beam search; arguments as in `greedy_decode`.

    Args:
        logits: the outputs of a model trained with `CTC`.
        logit_lengths: how many frames count, integers [n]; None: all of them.
        blank: the class that stands for no label.
        beams: how many prefixes are kept, and returned.
    """
    if beams < 1:
        raise ValueError(f"beam_decode needs at least one beam, not {beams}")
    return _beam(logits, _lengths(logits, logit_lengths, blank), blank, beams)


def _lengths(logits, lengths, blank):
    n, t, classes = logits.shape
    if not 0 <= blank < classes:
        raise ValueError(f"expected a blank among the {classes} classes of the logits {describe(logits)}, not {blank}")
    if lengths is None:
        return jnp.full(n, t)
    if not hasattr(lengths, "shape") or lengths.shape != (n,) or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"for logits {describe(logits)} expected integer logit_lengths [{n}], got {describe(lengths)}")
    if is_concrete(lengths) and not np.all((np.asarray(lengths) >= 0) & (np.asarray(lengths) <= t)):
        raise ValueError(f"expected logit_lengths from 0 to {t}, got {np.min(lengths)} to {np.max(lengths)}")
    return jnp.asarray(lengths)


@functools.partial(jax.jit, static_argnums=2)
def _greedy(logits, lengths, blank):
    n, t, _ = logits.shape
    log_p = jax.nn.log_softmax(logits)
    best = jnp.argmax(log_p, -1)
    real = jnp.arange(t) < lengths[:, None]
    before = jnp.pad(best[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    kept = real & (best != blank) & (best != before)
    place = jnp.where(kept, jnp.cumsum(kept, 1) - 1, t)  # those that aren't kept fall off the end
    labels = jnp.full((n, t), blank).at[jnp.arange(n)[:, None], place].set(best, mode="drop")
    return Decoded(labels, jnp.sum(kept, 1), jnp.sum(jnp.where(real, jnp.max(log_p, -1), 0), 1))


class _Beams(NamedTuple):
    """Distinct prefixes: labels [beams, t], lengths [beams], and the logarithms of b and l; both -inf: a free place."""

    labels: Array
    lengths: Array
    b: Array
    l: Array  # noqa: E741


@functools.partial(jax.jit, static_argnums=(2, 3))
def _beam(logits, lengths, blank, beams):
    t = logits.shape[1]

    def one(log_p, length):
        nothing = jnp.full(beams, -jnp.inf, log_p.dtype)
        start = _Beams(jnp.full((beams, t), blank), jnp.zeros(beams, lengths.dtype), nothing.at[0].set(0), nothing)

        def turn(kept, frame):
            log_p, real = frame
            return jax.tree.map(lambda new, old: jnp.where(real, new, old), _advance(kept, log_p, blank), kept), None

        kept, _ = lax.scan(turn, start, (log_p, jnp.arange(t) < length))
        order = jnp.argsort(-jnp.logaddexp(kept.b, kept.l))
        kept = jax.tree.map(lambda x: x[order], kept)
        return Decoded(kept.labels, kept.lengths, jnp.logaddexp(kept.b, kept.l))

    return jax.vmap(one)(jax.nn.log_softmax(logits), lengths)


def _advance(kept: _Beams, log_p: Array, blank: int) -> _Beams:
    """One frame on: every prefix and every prefix with a label more, the best of them."""
    beams, t = kept.labels.shape
    rows, classes = jnp.arange(beams), len(log_p)
    both = jnp.logaddexp(kept.b, kept.l)
    last = jnp.where(kept.lengths > 0, kept.labels[rows, kept.lengths - 1], blank)
    repeats = jnp.arange(classes) == last[:, None]
    longer = log_p + jnp.where(repeats, kept.b[:, None], both[:, None])
    longer = longer.at[:, blank].set(-jnp.inf)

    # Prefix i, extended by the last label of prefix j, may be j: then it is added there, not kept twice.
    places = jnp.arange(t)
    same = (kept.labels[:, None] == kept.labels) | (places >= kept.lengths[:, None])  # [j, i, t]
    taken = both > -jnp.inf
    parent = jnp.all(same, -1) & (kept.lengths[:, None] == kept.lengths + 1) & taken & taken[:, None]
    brought = jnp.where(parent, longer[:, last].T, -jnp.inf)
    longer = jnp.where(jnp.any(parent.T[..., None] & (last[:, None] == jnp.arange(classes)), 1), -jnp.inf, longer)

    b = both + log_p[blank]
    l = jnp.where(kept.lengths > 0, kept.l + log_p[last], -jnp.inf)  # noqa: E741
    l = jnp.logaddexp(l, jax.nn.logsumexp(brought, 1))  # noqa: E741
    scores, best = lax.top_k(jnp.concatenate([jnp.logaddexp(b, l), longer.ravel()]), beams)
    stays = best < beams
    i, label = jnp.where(stays, best, (best - beams) // classes), (best - beams) % classes
    labels = kept.labels[i].at[rows, jnp.where(stays, t, kept.lengths[i])].set(label, mode="drop")
    return _Beams(
        labels,
        kept.lengths[i] + ~stays,
        jnp.where(stays, b[i], -jnp.inf),
        jnp.where(stays, l[i], scores),
    )
