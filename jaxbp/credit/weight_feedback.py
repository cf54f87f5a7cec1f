"""Rules that send the delta through other weights, and the other rules beside them.

W is a weight, s² its mean square at the start, e the delta at the network's output.

    FeedbackAlignment   B normal of deviation s, and fixed
    UniformSigns        B = sign(W) s
    FixedSigns          B = sign(W) |R|, R normal of deviation s, drawn once
    BatchSigns          B = sign(W) |R|, R drawn anew for each batch
    KolenPollack        B begins as FeedbackAlignment's and gets the gradient of W; where both decay, W - B vanishes
    WeightMirror        B begins likewise and learns W from how the layer answers to noise (`mirror_weights`)
    DirectFeedback      δ = e B at the layer's output, B uniform and fixed
    LocalLoss           δ at the layer's output from a head and a loss of its own; nothing comes from above

Sources: Lillicrap et al., Nature Communications 7 (2016); Liao et al., arXiv 1510.05067, and Moskovitz et al.,
arXiv 1812.06488 (signs); Kolen & Pollack (1994), and Akrout et al., arXiv 1904.05391, who revived them and added the
mirror; Nøkland, arXiv 1609.01596 (direct) and Nøkland & Eidnes, arXiv 1901.06656 (local).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core.numerics import is_concrete
from jaxbp.credit.rules import WeightRule


def size(weight):
    """s, the root of the mean square; raises for zeros, whose B would be zero and send no error on."""
    if is_concrete(weight) and not jnp.any(weight):
        raise ValueError(
            "B is as large as the weight at the start, and this one is zero: give init_feedback drawn parameters; "
            "training may begin from zeros all the same"
        )
    return jnp.sqrt(jnp.mean(jnp.square(weight))).astype(weight.dtype)


@dataclass(frozen=True)
class FeedbackAlignment(WeightRule):
    """B random and fixed."""

    def init(self, key, weight):
        return size(weight) * jax.random.normal(key, weight.shape, weight.dtype)


@dataclass(frozen=True)
class UniformSigns(WeightRule):
    """sign(W), all magnitudes alike."""

    def init(self, key, weight):
        return size(weight)

    def backward_weight(self, weight, kept, key):
        return jnp.sign(weight) * kept


@dataclass(frozen=True)
class FixedSigns(WeightRule):
    """sign(W), the magnitudes drawn once."""

    def init(self, key, weight):
        return size(weight) * jnp.abs(jax.random.normal(key, weight.shape, weight.dtype))

    def backward_weight(self, weight, kept, key):
        return jnp.sign(weight) * kept


@dataclass(frozen=True)
class BatchSigns(UniformSigns):
    """sign(W), the magnitudes drawn from each batch's rng."""

    def backward_weight(self, weight, kept, key):
        if key is None:
            raise ValueError("BatchSigns draws magnitudes for each batch: give rng, a fresh jax.random.key")
        return jnp.sign(weight) * kept * jnp.abs(jax.random.normal(key, weight.shape, weight.dtype))


@dataclass(frozen=True)
class KolenPollack(FeedbackAlignment):
    """B learns as W does: give (params, learned) to one optimizer with weight decay (optax.add_decayed_weights)."""

    learns = True

    def gradient(self, kept, weight, weight_gradient):
        return weight_gradient
