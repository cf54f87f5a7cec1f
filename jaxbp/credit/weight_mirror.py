"""Weight mirrors: feedback weights that learn the forward weights from how a layer answers to noise.

With ξ of variance 1 for input, a layer that is linear in its weights answers y = ξ W + b. Let m run over the M places
(examples, positions) where W is used. From E[ξ_mi ξ_mj] = [i = j]:

    E[1/M Σ_m ξ_mi (y_mo - b_o)] = Σ_j E[ξ_mi ξ_mj] W_jo = W_io

The sum is what the layer's own parameter gradient makes of y - b in the place of a delta.

Source: Akrout et al., arXiv 1904.05391.
"""

from dataclasses import dataclass
from math import prod

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from jaxbp.core.errors import LayerError
from jaxbp.core.layer import Layer, Params, Site
from jaxbp.core.numerics import is_floating
from jaxbp.core.paths import as_path, leaves, leaves_of
from jaxbp.core.recording import recorded, zero_delta
from jaxbp.core.shared import uses_of
from jaxbp.core.sweep import sweep
from jaxbp.credit.rules import Rules, State, weight_rules, weights_of
from jaxbp.credit.weight_feedback import FeedbackAlignment


@dataclass(frozen=True)
class WeightMirror(FeedbackAlignment):
    """B ← (1 - decay) B + rate W̃, with W̃ the estimate of W from noise; B tends to W rate / decay."""

    rate: float = 0.1
    decay: float = 0.1
    mirrors = True

    def mirror(self, kept, estimate):
        return (1 - self.decay) * kept + self.rate * estimate


def mirror_weights(model: Layer, rules: Rules, params: Params, fixed: State, x: PyTree, key: PRNGKeyArray) -> State:
    """One step of learning for all rules that mirror; returns the new `fixed`. x sets shapes only."""
    named = leaves_of(model)
    chosen = {path: rule for path, rule in weight_rules(model, rules).items() if rule.mirrors and path in fixed}
    for path in chosen:
        if type(named[path]).affine is Layer.affine:
            raise LayerError(named[path], "is not linear in its weights, so noise can't mirror them", as_path(path))

    def estimate(site: Site):
        if site.path not in chosen:
            return ()
        layer, inputs = named[site.path], [record.x for record in uses_of(site.residuals)]
        inputs = [x for x in inputs if is_floating(x)]
        if not inputs:
            raise LayerError(layer, "looks up integers, which can't be noise", as_path(site.path))
        own = jax.random.fold_in(key, list(fixed).index(site.path))
        noise = jax.random.normal(own, inputs[0].shape, inputs[0].dtype)
        y, residuals = layer.forward(site.params, noise)
        answer = y - layer.forward(site.params, jnp.zeros_like(noise))[0]
        return layer.param_gradient(site.params, residuals, answer / prod(y.shape[:-1]))

    watched = recorded(model, sends=False)
    outputs, records = watched.forward(params, x)
    estimates = leaves(model, sweep(watched, params, records, zero_delta(outputs), estimate)[1])
    new = dict(fixed)
    for path, rule in chosen.items():
        new[path] = tuple(map(rule.mirror, fixed[path], weights_of(model, path, estimates[path])))
    return new
