"""Connectionist temporal classification: the probability of a label sequence under all its alignments with the frames.

An alignment gives each frame a class, a label or the blank; merging repeats and then dropping blanks must leave the
labels. So it is a path over the states s of the labels with blanks around them, ␣ l_1 ␣ l_2 ␣ … l_L ␣, that from frame
to frame stays, takes one step, or skips the blank between two labels that differ. Let a_t(k) = softmax(z_t)_k be the
probability of class k at frame t, t = 0 … T-1, and q_t(s) = a_t(class of s). A state's forward variable is the
probability of all paths that come to it, its backward variable that of all ways from it to the end (Graves, equations
6 and 10; here β leaves out its own frame, so that nothing has to be divided out again):

    α_t(s) = q_t(s) (α_{t-1}(s) + α_{t-1}(s-1) + [skip s] α_{t-1}(s-2))
    β_t(s) = (qβ)_{t+1}(s) + (qβ)_{t+1}(s+1) + [skip s+2] (qβ)_{t+1}(s+2)

Each path passes one state at frame t, so P = Σ_s α_t(s) β_t(s) at every t, and l = -log P. The term of state s is
linear in q_t(s): ∂P/∂q_t(s) = α_t(s) β_t(s) / q_t(s). With the posterior probability that the path is in class k at
frame t,

    occupancy    γ_t(k) = Σ_{s of class k} α_t(s) β_t(s) / P          Σ_k γ_t(k) = 1
    ∂l/∂a_t(k) = -γ_t(k) / a_t(k)

and through the softmax, ∂a_j/∂z_k = a_j (δ_jk - a_k),

    ∂l/∂z_t(k) = -Σ_j γ_t(j) (δ_jk - a_t(k)) = a_t(k) - γ_t(k)        (Graves, equation 16)

which sums to zero over classes. Before the first frame the path is one step ahead of the states; behind the last it is
in an end state, which takes the place of label L + 1, and alone has probability 1 at the frames of padding: so examples
of all lengths go through one recursion. The numbers are `Extended`: a state may be e^-20000 times as likely as another
and yet be the one that all paths must pass later, which neither probabilities scaled at each frame nor 32-bit
logarithms survive. The residuals are a, α, q and P: β runs only in the backward pass.

l is the sum over frames of log Σ_k e^{z_t(k)}, less the log of a sum over paths: both are convex, and their difference
is not. The `hessian` is that of the first, diag a_t - a_t a_tᵀ at each frame that counts: the Fisher information of
the alignment, were it known, of which the labels alone have a part.

Source: Graves, Fernández, Gomez & Schmidhuber, "Connectionist temporal classification", ICML 2006.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxbp.core.layer import ArrayLike
from jaxbp.core.numerics import accumulation_dtype, is_concrete
from jaxbp.core.text import describe
from jaxbp.losses import extended_exponent as extended
from jaxbp.losses.classification import softmax_hessian, softmax_root
from jaxbp.losses.example_loss import ExampleLoss
from jaxbp.losses.extended_exponent import NEVER, Extended


class Transcripts(NamedTuple):
    """What `CTC` is to find in logits [n, t, classes].

    labels: integers [n, L], padded to equal length with whatever is no trouble to write.
    label_lengths: how many of them count, [n], from 0 to L.
    logit_lengths: how many frames count, [n], up to t; None: all of them.
    """

    labels: ArrayLike
    label_lengths: ArrayLike
    logit_lengths: ArrayLike | None = None


@dataclass(frozen=True)
class CTC(ExampleLoss):
    """The negative log-probability of `Transcripts` under logits [n, t, classes], one loss an example.

    Labels that the frames have no room for (each takes one, and a repeated label one more for the blank before it) are
    infinitely improbable: the loss is infinite, and there is no way to better it, so the gradient is zero. Labels that
    outnumber the frames are refused where they can be seen, outside jit.

    Args:
        blank: the class that stands for no label.
        zero_infinity: the loss of such an example is 0 in place of infinity.
    """

    blank: int = 0
    zero_infinity: bool = False

    def __post_init__(self):
        if self.blank < 0:
            raise ValueError(f"CTC needs the blank's class, 0 or more, not {self.blank}")

    def require_targets(self, outputs, targets):
        if len(outputs.shape) != 3 or outputs.shape[2] <= self.blank:
            raise ValueError(
                f"{self}: expected logits [n, t, classes], more classes than the blank's {self.blank}, "
                f"got outputs {describe(outputs)}"
            )
        if not isinstance(targets, Transcripts):
            raise TypeError(
                f"{self}: expected targets Transcripts(labels, label_lengths, logit_lengths), got {describe(targets)}"
            )
        (n, t, classes), (labels, lengths, frames) = outputs.shape, targets
        for name, array, shape in (
            ("labels", labels, [n, "L"]),
            ("label_lengths", lengths, [n]),
            ("logit_lengths", frames, [n]),
        ):
            if array is None and name == "logit_lengths":
                continue
            if not hasattr(array, "shape") or array.shape[:1] != (n,) or len(array.shape) != len(shape):
                wanted = str(shape).replace("'", "")
                raise ValueError(
                    f"{self}: for outputs {describe(outputs)} expected {name} {wanted}, got {describe(array)}"
                )
            if not jnp.issubdtype(array.dtype, jnp.integer):
                raise TypeError(
                    f"{self}: expected integer {name}, got {describe(array)}; convert them, as in {name}.astype(int)"
                )
        if all(map(is_concrete, jax.tree.leaves(targets))):
            self._require_values(t, classes, *map(np.asarray, (labels, lengths, self._frames(outputs, targets))))

    def _require_values(self, t, classes, labels, lengths, frames):
        """What can be said of the numbers themselves."""
        for name, array, most in (("label_lengths", lengths, labels.shape[1]), ("logit_lengths", frames, t)):
            wrong = np.flatnonzero((array < 0) | (array > most))
            if wrong.size:
                raise ValueError(
                    f"{self}: {name}[{wrong[0]}] is {array[wrong[0]]}, beyond the array: expected 0 to {most}"
                )
        counted = np.arange(labels.shape[1]) < lengths[:, None]
        for wrong, problem in (
            ((labels < 0) | (labels >= classes), f"is out of range: there are {classes} classes, 0 to {classes - 1}"),
            (labels == self.blank, "is the blank, which stands between labels by itself: leave it out"),
        ):
            places = np.argwhere(counted & wrong)
            if places.size:
                n, i = places[0]
                raise ValueError(f"{self}: label {labels[n, i]} of example {n}, at position {i}, {problem}")
        wrong = np.flatnonzero(lengths > frames)
        if wrong.size and not self.zero_infinity:
            n = wrong[0]
            raise ValueError(
                f"{self}: example {n} has {lengths[n]} labels, more than its {frames[n]} frames; "
                "leave it out, downsample less, or let zero_infinity=True pass over such examples"
            )

    def per_example(self, outputs, targets):
        targets = jax.tree.map(lambda a: a.astype(jnp.int32), targets)
        z = outputs.astype(accumulation_dtype(outputs))
        frames = self._frames(z, targets)
        real = jnp.arange(z.shape[1]) < frames[:, None]
        classes, skip, end = states(targets, self.blank, z.shape[2])
        exp_z = extended.exp(z - lax.stop_gradient(jnp.max(z, -1, keepdims=True)))
        total = jnp.sum(plain(exp_z), -1, keepdims=True)
        a = Extended(exp_z.m / total, exp_z.e)
        q = emissions(a, classes, end, real)
        alpha, p = forward_variables(q, skip, end)
        losses = jnp.maximum(-extended.log(p), 0)  # rounding must not make P more than 1
        losses = jnp.where(self._fits(z, targets), losses, jnp.nan)
        if self.zero_infinity:
            losses = jnp.where(jnp.isposinf(losses), 0, losses)
        counts = real & extended.positive(p)[:, None]
        return losses, (jnp.where(counts[..., None], plain(a), 0), alpha, q, p, classes, skip, end)

    def scaled_gradient(self, residuals, scale):
        a = residuals[0]
        return scale * (a - posterior(residuals))

    def occupancy(self, outputs: Float[Array, "n t classes"], targets: Transcripts) -> Float[Array, "n t classes"]:
        """γ: the posterior probability of each class at each frame, given the labels.

        Zero at frames of padding, and where no alignment is possible.
        """
        self.require(outputs, targets)
        return posterior(self.per_example(outputs, jax.tree.map(jnp.asarray, targets))[1])

    def scaled_hessian(self, residuals, scale, v):
        return scale * softmax_hessian(residuals[0], v)

    def scaled_root(self, residuals, root, v):
        return root * softmax_root(residuals[0], v)

    def _frames(self, outputs, targets):
        """T of each example, [n]."""
        n, t, _ = outputs.shape
        return jnp.full(n, t) if targets.logit_lengths is None else targets.logit_lengths

    def _fits(self, outputs, targets):
        """What `require` sees outside jit: of a wrong example the loss is no number, rather than a neighbour's."""
        labels, lengths, _ = targets
        counted = jnp.arange(labels.shape[1]) < lengths[:, None]
        wrong = counted & ((labels < 0) | (labels >= outputs.shape[2]) | (labels == self.blank))
        frames = self._frames(outputs, targets)
        inside = (lengths >= 0) & (lengths <= labels.shape[1]) & (frames >= 0) & (frames <= outputs.shape[1])
        return inside & ~jnp.any(wrong, 1)


def states(targets: Transcripts, blank: int, classes: int):
    """Of the states [s, n]: their classes, whether the blank before may be skipped, and which one is the end."""
    labels, lengths, _ = targets
    s = jnp.arange(2 * labels.shape[1] + 2)[:, None]
    end = s == 2 * lengths + 1
    label = jnp.pad(jnp.clip(labels.T, 0, classes - 1), ((0, 1), (0, 0)))
    of_state = jnp.where(s % 2 == 1, jnp.repeat(label, 2, 0), blank)
    # The beginning is no state, and the end no class: both differ from every label.
    before = jnp.pad(of_state[:-2], ((2, 0), (0, 0)), constant_values=-1)
    skip = (s % 2 == 1) & ((of_state != before) | end)
    return of_state, skip, end


def emissions(a: Extended, classes: Array, end: Array, real: Bool[Array, "n t"]) -> Extended:
    """q [t, s, n]; examples come last, since a shift along the states is then a shift of whole rows."""

    def at_states(x):
        return jnp.take_along_axis(jnp.moveaxis(x, 0, -1), classes[None], 1, mode="promise_in_bounds")

    real, before_end = real.T[:, None, :], jnp.cumsum(end, 0) == 0
    possible = jnp.where(real, before_end, end)
    return Extended(jnp.where(real, at_states(a.m), 1), jnp.where(possible, jnp.where(real, at_states(a.e), 0), NEVER))


def forward_variables(q: Extended, skip: Array, end: Array) -> tuple[Extended, Extended]:
    """α [t, s, n] and P [n]."""
    ban = jnp.where(skip, 0, NEVER)

    def come(padded):
        a, b, c = padded[2:], padded[1:-1], padded[:-2]
        return extended.add(a, b, Extended(c.m, c.e + ban))

    def pad(x):
        return Extended(*(jnp.pad(y, ((2, 0), (0, 0)), constant_values=v) for y, v in zip(x, (1, NEVER), strict=True)))

    def step(before, q):
        now = extended.multiply(come(before), q)
        return pad(now), now

    first = Extended(
        jnp.ones((end.shape[0] + 2, end.shape[1]), q.m.dtype),
        jnp.full((end.shape[0] + 2, end.shape[1]), NEVER).at[1].set(0),
    )
    last, alpha = lax.scan(step, first, q)
    last = come(last)
    return alpha, Extended(jnp.sum(jnp.where(end, last.m, 0), 0), jnp.max(jnp.where(end, last.e, NEVER), 0))


def backward_variables(q: Extended, p: Extended, skip: Array, end: Array) -> Extended:
    """β / P [t, s, n]."""
    ban = jnp.pad(jnp.where(skip, 0, NEVER)[2:], ((0, 2), (0, 0)), constant_values=NEVER)

    def pad(x):
        return Extended(*(jnp.pad(y, ((0, 2), (0, 0)), constant_values=v) for y, v in zip(x, (1, NEVER), strict=True)))

    def step(after, q):
        a, b, c = after[:-2], after[1:-1], after[2:]
        now = extended.add(a, b, Extended(c.m, c.e + ban))
        return pad(extended.multiply(now, q)), now

    last = pad(Extended(jnp.broadcast_to(1 / p.m, end.shape), jnp.where(end, -p.e, NEVER)))
    return lax.scan(step, last, q, reverse=True)[1]


def posterior(residuals) -> Float[Array, "n t classes"]:
    """γ."""
    a, alpha, q, p, classes, skip, end = residuals
    beta = backward_variables(q, p, skip, end)
    paths = plain(extended.multiply(alpha, beta))
    (n, t, k), blank = a.shape, classes[0, 0]
    of_labels = jnp.zeros((k, n, t), a.dtype).at[classes[1::2], jnp.arange(n)].add(jnp.moveaxis(paths[:, 1::2], 0, -1))
    of_blank = jnp.sum(paths[:, ::2], 1).T[..., None]
    gamma = jnp.moveaxis(of_labels, 0, -1) + jnp.where(jnp.arange(k) == blank, of_blank, 0)
    counts = jnp.sum(a, -1, keepdims=True) > 0
    return jnp.where(counts, gamma / jnp.sum(gamma, -1, keepdims=True), 0)


def plain(a: Extended) -> Float[Array, "*s"]:
    """As a float, 0 where it is too small for one."""
    return a.m * extended.power_of_two(a.e, a.m.dtype)
