"""Weight mirrors: feedback weights that learn the forward weights from how a layer answers to noise."""

from dataclasses import dataclass
from math import prod

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from jaxbp.core.errors import LayerError
from jaxbp.core.layer import Layer, Params, Site
from jaxbp.core.paths import as_path, layers, leaves
from jaxbp.core.sweep import sweep
from jaxbp.credit.feedback import Rules, State, weight_rules, weights_in
from jaxbp.credit.weight_feedback import FeedbackAlignment


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
