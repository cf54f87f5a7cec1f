"""Penalties: what the outputs of an inner layer cost, added to the loss.

Let y_n be what the layer returned for example n, and r_n that example's share of the loss, w_n / W, summed over its
labels where it has several. Then, with φ the penalty of one example and λ its weight,

    J = loss + λ Σ_n r_n φ(y_n)          ∂J/∂y_n = (what arrives from the layers above) + λ r_n ∂φ/∂y_n

    L1            φ = Σ_f |y_f|                                   ∂φ/∂y_f = sign y_f
    L2            φ = ½ Σ_f y_f²                                  ∂φ/∂y_f = y_f
    GaussianKL    φ = ½ Σ_f (m_f² + e^v_f - 1 - v_f)              ∂φ/∂m_f = m_f        ∂φ/∂v_f = ½ (e^v_f - 1)

the last for a layer that returns the means m and the log variances v of normal distributions: how far they are from the
unit normal (the KL divergence). A mean over the batch stays one, and an example of weight zero costs nothing.

LoadBalance mixes examples. Let t run over all tokens of the batch (examples, and their positions), p_t,e be the
probability with which token t goes to expert e of E, c_t,e whether it does (e is among the k likeliest), and ρ_t the
token's part of its example's share:

    f_e = Σ_t ρ_t c_t,e / (k R)      P_e = Σ_t ρ_t p_t,e / R      R = Σ_t ρ_t, which is 1 for a mean
    φ = E R Σ_e f_e P_e              ∂φ/∂p_t,e = E ρ_t f_e

f is counted and has no gradient. φ is 1 where all experts have the same load, E where one has it all.

Sources: Kingma & Welling, arXiv 1312.6114, appendix B (GaussianKL); Fedus et al., Switch Transformers, arXiv
2101.03961, section 2.2 (LoadBalance).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxbp.core.numerics import accumulation_dtype, expand, is_floating
from jaxbp.core.text import constructor_call, describe
from jaxbp.losses.base import Loss


@dataclass(frozen=True)
class Penalty:
    """What a layer's outputs y cost. A subclass gives `per_example` and `gradient`; one that mixes examples, all four.

    Args:
        weight: λ.
    """

    weight: float = 1.0

    @property
    def mixes_examples(self) -> bool:
        """Whether what an example costs depends on the other examples of the batch."""
        return False

    def per_example(self, y: PyTree) -> PyTree:
        """φ(y_n) for every example, [n]; or, if `value` is given too, any arrays [n, ...] that it is made of."""
        raise NotImplementedError(f"{self} doesn't define per_example(y) -> [n]")

    def value(self, per_example: PyTree, share: Float[Array, " n"]) -> Float[Array, ""]:
        """λ Σ_n r_n φ(y_n)."""
        return self.weight * jnp.sum(jnp.where(share == 0, 0, share * per_example))

    def gradient(self, y: PyTree, share: Float[Array, " n"]) -> PyTree:
        """Its derivative in y: a tree like y, with None for integers."""
        raise NotImplementedError(f"{self} doesn't define gradient(y, share)")

    def __str__(self) -> str:
        return constructor_call(self)


@dataclass(frozen=True)
class L1(Penalty):
    """The absolute values of all floating-point outputs, added up: activations become sparse."""

    def per_example(self, y):
        return sum(sum_outputs(jnp.abs(a)) for a in floating(y))

    def gradient(self, y, share):
        return jax.tree.map(lambda a: scaled(self.weight * share, a, jnp.sign), y)


@dataclass(frozen=True)
class L2(Penalty):
    """Half the squares of all floating-point outputs, added up: activations stay small."""

    def per_example(self, y):
        return sum(sum_outputs(jnp.square(a)) / 2 for a in floating(y))

    def gradient(self, y, share):
        return jax.tree.map(lambda a: scaled(self.weight * share, a, lambda a: a), y)


@dataclass(frozen=True)
class GaussianKL(Penalty):
    """The KL divergence from the unit normal of normal distributions, given by their means and log variances.

    The layer returns a pair (means, log variances) of one shape, or one array with the means in the first half of its
    last axis and the log variances in the second.
    """

    def per_example(self, y):
        mean, log_variance = self._halves(y)
        return sum_outputs(jnp.square(mean) + jnp.expm1(log_variance) - log_variance) / 2

    def gradient(self, y, share):
        mean, log_variance = self._halves(y)
        pair = scaled(self.weight * share, mean, lambda m: m), scaled(self.weight * share, log_variance, _half_expm1)
        return pair if isinstance(y, tuple | list) else jnp.concatenate(pair, -1)

    def _halves(self, y):
        pair = tuple(y) if isinstance(y, tuple | list) else None
        if hasattr(y, "shape") and y.shape[-1] % 2 == 0:
            pair = jnp.split(y, 2, -1)
        if pair is None or len(pair) != 2 or jnp.shape(pair[0]) != jnp.shape(pair[1]):
            raise ValueError(
                f"{self}: expected (means, log variances) of one shape, or an array whose last axis can be halved, got "
                f"{describe(y)}"
            )
        return pair


@dataclass(frozen=True)
class LoadBalance(Penalty):
    """How unequally a layer that returns probabilities [n, ..., experts] loads the experts; at best λ.

    Args:
        weight: λ; 0.01 in the source.
        chosen: how many experts each token goes to, those of the largest probabilities.
    """

    chosen: int = 1

    @property
    def mixes_examples(self):
        return True

    def per_example(self, y):
        if not hasattr(y, "shape") or len(y.shape) < 2 or not 1 <= self.chosen <= y.shape[-1]:
            raise ValueError(f"{self}: expected probabilities [n, ..., experts >= {self.chosen}], got {describe(y)}")
        p = y.astype(accumulation_dtype(y)).reshape(y.shape[0], -1, y.shape[-1])
        return jnp.mean(self._choices(p), 1), jnp.mean(p, 1)

    def value(self, per_example, share):
        load, expected = (share @ jnp.where(expand(share, 2) == 0, 0, a) for a in per_example)
        return self.weight * len(load) * jnp.vdot(load, expected) / total_share(share)

    def gradient(self, y, share):
        choices, _ = self.per_example(y)
        load = share @ jnp.where(expand(share, 2) == 0, 0, choices) / total_share(share)
        tokens = y.size // (y.shape[0] * y.shape[-1])
        scale = expand(self.weight * y.shape[-1] / tokens * share, y.ndim)
        return jnp.broadcast_to(scale * load, y.shape).astype(y.dtype)

    def _choices(self, p):
        """1 / k for the k experts of the largest probabilities."""
        _, best = jax.lax.top_k(p, self.chosen)
        return jnp.mean(jax.nn.one_hot(best, p.shape[-1], dtype=p.dtype), -2)


def _half_expm1(a: Array) -> Array:
    return jnp.expm1(a) / 2


def floating(y: PyTree) -> list[Array]:
    """The floating-point arrays of a tree, in the dtype in which they are added up."""
    arrays = [a.astype(accumulation_dtype(a)) for a in jax.tree.leaves(y) if is_floating(a)]
    if not arrays:
        raise ValueError(f"expected floating-point outputs to penalize, got {describe(y)}")
    return arrays


def sum_outputs(a: Float[Array, "n ..."]) -> Float[Array, " n"]:
    """Σ over all axes but that of the examples."""
    return jnp.sum(a.astype(accumulation_dtype(a)), range(1, a.ndim))


def scaled(share: Float[Array, " n"], a: Array, derivative) -> Array | None:
    """share_n times a derivative, in the dtype of a; None for integers. Where the share is zero a may be anything."""
    if not is_floating(a):
        return None
    share = expand(share, a.ndim)
    return jnp.where(share == 0, 0, share * derivative(a.astype(share.dtype))).astype(a.dtype)


def total_share(share: Float[Array, " n"]) -> Float[Array, ""]:
    """R, or 1 where no example counts."""
    total = jnp.sum(share)
    return jnp.where(total == 0, 1, total)


def example_shares(
    loss: Loss, outputs: PyTree, targets: PyTree, weights: PyTree = None, total: PyTree = None
) -> Float[Array, " n"]:
    """Each example's share of the loss, w_n / W, summed over its labels; of several losses the mean of its shares."""
    by_part = jax.tree.leaves(loss.weigh(outputs, targets, weights))
    totals = jax.tree.leaves(loss.total(outputs, targets, weights) if total is None else total)
    totals = totals * len(by_part) if len(totals) == 1 else totals
    shares = [sum_outputs(w) / jnp.where(t == 0, 1, t) for w, t in zip(by_part, totals, strict=True)]
    return sum(shares) / len(shares)
