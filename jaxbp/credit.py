"""The rules of `feedback.py`. W is a weight, s² its mean square at the start, e the delta at the network's output.

    FeedbackAlignment   B normal of deviation s, and fixed
    UniformSigns        B = sign(W) s
    FixedSigns          B = sign(W) |R|, R normal of deviation s, drawn once
    BatchSigns          B = sign(W) |R|, R drawn anew for each batch
    KolenPollack        B begins as FeedbackAlignment's and gets the gradient of W; where both decay, W - B dies out
    WeightMirror        B begins likewise and learns W from how the layer answers to noise (`mirror_weights`)
    DirectFeedback      δ = e B at the layer's output, B uniform and fixed
    LocalLoss           δ at the layer's output from a head and a loss of its own; nothing comes from above

Sources: Lillicrap et al., Nature Communications 7 (2016); Liao et al., arXiv 1510.05067, and Moskovitz et al.,
arXiv 1812.06488 (signs); Kolen & Pollack (1994), and Akrout et al., arXiv 1904.05391, who revived them and added the
mirror; Nøkland, arXiv 1609.01596 (direct) and Nøkland & Eidnes, arXiv 1901.06656 (local).
"""

from dataclasses import dataclass
from math import prod

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from jaxbp.feedback import DeltaRule, Rules, State, WeightRule, weight_rules, weights_in
from jaxbp.layer import Layer, LayerError, Params, Site, is_concrete
from jaxbp.losses.loss import Loss
from jaxbp.reverse import as_path, layers, leaves, sweep


def size(weight):
    """s, the root of the mean square; refuses zeros, of which B would be zero and no error travel."""
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


@dataclass(frozen=True)
class WeightMirror(FeedbackAlignment):
    """B ← (1 - decay) B + rate W̃, with W̃ the estimate of W from noise; B tends to W rate / decay."""

    rate: float = 0.1
    decay: float = 0.1


def mirror_weights(model: Layer, rules: Rules, params: Params, fixed: State, x: PyTree, key: PRNGKeyArray) -> State:
    """One turn of learning for the weights of all `WeightMirror` rules; returns the new `fixed`. x sets shapes only.

    Each layer gets noise ξ of variance 1 for input and answers y = ξ W + b. Then 1/M Σ ξᵀ (y - b) tends to W: what the
    layer's own parameter gradient makes of y - b in the place of a delta, divided by the M places that W is used in.
    """
    chosen = {path: rule for path, rule in weight_rules(model, rules).items() if isinstance(rule, WeightMirror)}
    for path, layer in layers(model):
        if path in chosen and path in fixed and type(layer).affine is Layer.affine:
            raise LayerError(layer, "is not linear in its weights, so noise can't mirror them", as_path(path))

    def estimate(site: Site):
        if site.path not in chosen or site.path not in fixed:
            return ()
        like = jax.eval_shape(site.layer.input_gradient, site.params, site.residuals, site.g)
        own = jax.random.fold_in(key, list(fixed).index(site.path))
        noise = jax.random.normal(own, like.shape, like.dtype)
        y, residuals = site.layer.forward(site.params, noise)
        delta = y - site.layer.forward(site.params, jnp.zeros_like(noise))[0]
        return site.layer.param_gradient(site.params, residuals, delta / prod(y.shape[:-1]))

    outputs, residuals = model.forward(params, x)
    estimates = leaves(model, sweep(model, params, residuals, outputs, estimate)[1])
    new = dict(fixed)
    for path, rule in chosen.items():
        if path in fixed:
            arrays, is_weight = weights_in(model, path, estimates[path])
            seen = [a for a, yes in zip(arrays, is_weight, strict=True) if yes]
            new[path] = tuple((1 - rule.decay) * b + rule.rate * w for b, w in zip(fixed[path], seen, strict=True))
    return new


@dataclass(frozen=True)
class DirectFeedback(DeltaRule):
    """δ = e B at the output y of the layer, past all layers above. Give it the paths of the nonlinearities.

    B [outputs, y's size] is uniform between ± 1 / √(y's size).
    """

    def init(self, key, outputs, y):
        hidden = prod(y.shape[1:])
        shape = prod(outputs.shape[1:]), hidden
        return jax.random.uniform(key, shape, y.dtype, -1, 1) / hidden**0.5

    def delta(self, b, arrived):
        e, y = arrived.e, arrived.y
        return (e.reshape(len(e), -1) @ b).reshape(y.shape).astype(y.dtype), ()


@dataclass(frozen=True)
class LocalLoss(DeltaRule):
    """δ = ∂J'/∂y with J' the loss of head(y): the layers below learn from it alone, and the head learns with them."""

    head: Layer
    loss: Loss
    learns = True

    def init(self, key, outputs, y):
        return self.head.init(key, y)

    def delta(self, params, arrived):
        rng = None if arrived.rng is None else jax.random.fold_in(arrived.rng, 0x10CA)
        outputs, residuals = self.head.forward(params, arrived.y, rng)
        _, kept = self.loss.forward(outputs, arrived.targets, arrived.weights, arrived.total)
        return sweep(self.head, params, residuals, self.loss.backward(kept))
