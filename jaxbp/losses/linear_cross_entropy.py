"""The output matrix and the softmax cross-entropy as one, the logits never whole.

Let n run over tokens, f over features, w over the vocabulary of size V; h is what the network made of the tokens, W the
output matrix, y the labels, s the smoothing, ζ the z-loss, C the soft cap (none: z = u):

    u[n,w] = Σ_f h[n,f] W[w,f]        z = C tanh(u / C)        ℓ[n] = log Σ_w e^z[n,w]
    l[n]   = ℓ[n] - (1 - s) z[n,y[n]] - s/V Σ_w z[n,w] + ζ ℓ[n]²

With p = e^(z - ℓ), and r[n] the token's share of the mean,

    ∂l[n]/∂z[n,w] = (1 + 2 ζ ℓ[n]) p[n,w] - (1 - s) [w = y[n]] - s/V        ∂z/∂u = 1 - (z / C)²
    ∂J/∂h[n,f] = r[n] Σ_w ∂l[n]/∂u[n,w] W[w,f]                              ∂J/∂W[w,f] = Σ_n r[n] ∂l[n]/∂u[n,w] h[n,f]

Each token's line is complete in itself. So tokens are taken some at a time, and while their logits are at hand both
gradients are taken too: nothing is computed twice, and the residuals are the gradients themselves. What is summed over
tokens is summed in float32.

Sources: Chowdhery et al., PaLM, arXiv 2204.02311 (z-loss); Bello et al., arXiv 1611.09940 (cap); Hsu et al., Liger
Kernel, arXiv 2410.10989 (gradients while the logits are there).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jaxbp.core.lazy_logits import LazyLogits
from jaxbp.core.numerics import accumulation_dtype, contract
from jaxbp.core.text import describe
from jaxbp.losses.classification import SoftmaxCrossEntropy
from jaxbp.losses.example_loss import ExampleLoss

LOGITS_AT_ONCE = 2**23  # upper bound on logits held in memory
PARTS = 8  # and ∂J/∂W is added up in so many parts


@dataclass(frozen=True)
class LinearCrossEntropy(ExampleLoss):
    """From `LazyLogits`(hidden [n, ..., f], weight [V, f]); targets are integer labels [n, ...].

    Each label counts as one. Weights are one number an example, or one a label.

    Args:
        smoothing: the share s of the target that goes to all words alike, 0 ≤ s < 1.
        ignored_label: an integer label that does not count, such as padding's.
        z_loss: ζ ≥ 0, which keeps ℓ near zero.
        soft_cap: C > 0, beyond which no logit grows; None: none.
        tokens: how many at a time; None: so many that about eight million logits exist at once.
    """

    smoothing: float = 0.0
    ignored_label: int | None = None
    z_loss: float = 0.0
    soft_cap: float | None = None
    tokens: int | None = None

    def __post_init__(self):
        if not 0 <= self.smoothing < 1 or not self.z_loss >= 0 or not (self.soft_cap is None or self.soft_cap > 0):
            raise ValueError(f"{self}: expected 0 <= smoothing < 1, z_loss >= 0 and a positive soft_cap or None")

    def forward(self, outputs, targets, weights=None, total=None) -> tuple[Float[Array, ""], PyTree]:
        """The weighted mean loss, and the gradients that `backward` gives; see `Loss.forward`."""
        self.require(outputs, targets := jnp.asarray(targets))
        hidden, weight = outputs
        share = self.shares(outputs, targets, weights, total)
        hidden = jnp.where(share[..., None] == 0, 0, hidden)
        h, y, r = hidden.reshape(-1, hidden.shape[-1]), targets.astype(jnp.int32).reshape(-1), share.reshape(-1)

        def some(carry, h_, y_, r_):
            value, dw = carry
            z, at_label = self._logits(h_, weight, y_)
            losses, dz = self._lines(z, at_label, y_)
            if self.soft_cap is not None:
                dz = dz * (1 - jnp.square(z / self.soft_cap))
            dz = (r_[:, None] * dz).astype(weight.dtype)
            dw = plus_product(dw, dz, h_)
            value = value + jnp.sum(jnp.where(r_ == 0, 0, r_ * losses))
            return (value, dw), contract("nw,wf->nf", dz, weight, dtype=hidden.dtype)

        zeros = jnp.zeros((), r.dtype), jnp.zeros(weight.shape, accumulation_dtype(weight))
        (value, dw), dh = self._by_tokens(some, zeros, len(weight), h, y, r)
        return value, LazyLogits(dh.reshape(hidden.shape), dw.astype(weight.dtype))

    def backward(self, residuals: LazyLogits) -> LazyLogits:
        """∂J/∂hidden and ∂J/∂weight."""
        return residuals

    def hessian(self, residuals, v):
        """None: the logits are gone."""
        raise NotImplementedError(f"{self} gives no curvature: use SoftmaxCrossEntropy, on full logits")

    hessian_root = hessian

    def empirical_root(self, residuals):
        """None either: ∂J/∂weight is a sum over examples."""
        return self.hessian(residuals, None)

    def weighted_sum(self, outputs, targets, weights=None):
        weights = self.weigh(outputs, targets, weights)
        return jnp.sum(jnp.where(weights == 0, 0, weights * self.per_example(outputs, targets)[0]))

    def per_example(self, outputs, targets):
        """The losses [n, ...], one a label."""
        return self._each(outputs, targets, lambda *z: self._lines(*z)[0]), ()

    def metrics(self, outputs, targets):
        return {"accuracy": self._each(outputs, targets, lambda z, _, y: (jnp.argmax(z, -1) == y).astype(z.dtype))}

    def require(self, outputs, targets):
        if not isinstance(outputs, LazyLogits):
            raise TypeError(
                f"{self}: expected a LazyLogits(hidden, weight), got {describe(outputs)}; see TiedEmbedding"
            )
        hidden, weight = outputs
        if not jnp.issubdtype(targets.dtype, jnp.integer):
            raise TypeError(f"{self}: expected integer labels, got {describe(targets)}")
        logits = jax.ShapeDtypeStruct((*hidden.shape[:-1], weight.shape[0]), hidden.dtype)
        self._plain().require(logits, targets)

    def counted(self, outputs, targets):
        return self._plain().counted(jax.ShapeDtypeStruct((*targets.shape, 1), outputs.hidden.dtype), targets)

    def _plain(self):
        return SoftmaxCrossEntropy(self.smoothing, self.ignored_label)

    def _logits(self, h, weight, y):
        """z [n, w], and z of the labels [n], not taken out of z, so that e^z can take its place in memory."""
        labelled, dtype = jnp.take(weight, y, 0, mode="clip"), accumulation_dtype(h)
        u = contract("nf,wf->nw", h, weight, dtype=dtype), contract("nf,nf->n", h, labelled, dtype=dtype)
        return u if self.soft_cap is None else [self.soft_cap * jnp.tanh(a / self.soft_cap) for a in u]

    def _lines(self, z: Float[Array, "n w"], at_label: Float[Array, " n"], y: Int[Array, " n"]):
        """l [n] and ∂l/∂z [n, w]."""
        words = z.shape[-1]
        highest = lax.stop_gradient(jnp.max(z, -1, keepdims=True))
        e = jnp.exp(z - highest)
        total = jnp.sum(e, -1, keepdims=True)
        log_sum = (highest + jnp.log(total))[:, 0]
        if self.ignored_label is None:
            out = (y < 0) | (y >= words)
        else:
            out = ((y < 0) | (y >= words)) & (y != self.ignored_label)
        at_label = jnp.where(out, jnp.nan, at_label)  # under jit a label out of range shows
        losses = log_sum - (1 - self.smoothing) * at_label + self.z_loss * jnp.square(log_sum)
        dz = (1 + 2 * self.z_loss * log_sum)[:, None] * e / total
        dz = dz - (1 - self.smoothing) * jax.nn.one_hot(y, words, dtype=dz.dtype)
        if self.smoothing:
            losses, dz = losses - self.smoothing * jnp.mean(z, -1), dz - self.smoothing / words
        return losses, dz

    def _each(self, outputs, targets, line):
        """line(z, z of the label, label) of every token, shaped like the targets."""
        hidden, weight = outputs
        h, y = hidden.reshape(-1, hidden.shape[-1]), jnp.asarray(targets, jnp.int32).reshape(-1)

        def some(_, h_, y_):
            return None, line(*self._logits(h_, weight, y_), y_)

        return self._by_tokens(some, None, len(weight), h, y)[1].reshape(targets.shape)

    def _by_tokens(self, some, carry, words, *arrays):
        """Runs `some(carry, *arrays) -> (carry, rows)` over all tokens, a part of each array at a time; rows joined."""
        n = len(arrays[0])
        parts = max(1, -(-n // (self.tokens or max(1, LOGITS_AT_ONCE // words))))
        size = -(-n // parts)
        more = parts * size - n  # zeros, so that all parts are equal
        padded = [jnp.pad(a, [(0, more)] + [(0, 0)] * (a.ndim - 1)) if more else a for a in arrays]
        split = [a.reshape(parts, size, *a.shape[1:]) for a in padded]
        carry, rows = lax.scan(lambda carry, part: some(carry, *part), carry, split)
        return carry, rows.reshape(-1, *rows.shape[2:])[:n]


def plus_product(total: Float[Array, "w f"], dz: Float[Array, "n w"], h: Float[Array, "n f"]) -> Float[Array, "w f"]:
    """total + dzᵀ h, some words at a time: XLA would have the whole product lie beside the sum."""
    words = len(total)
    size = -(-words // PARTS)

    def some(i, total):
        first = jnp.minimum(i * size, words - size)
        part = lax.dynamic_slice_in_dim(dz, first, size, 1)
        part = jnp.where(first + jnp.arange(size) < i * size, 0, part)  # where the last part begins before its turn
        here = lax.dynamic_slice_in_dim(total, first, size) + contract("nw,nf->wf", part, h, dtype=total.dtype)
        return lax.dynamic_update_slice_in_dim(total, here, first, 0)

    return lax.fori_loop(0, PARTS, some, total)
