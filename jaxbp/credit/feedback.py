"""Other ways to send credit: how the delta travels is changed, not how a layer learns from it.

Backprop sends δ back through the weights W of the forward pass. A `WeightRule` sends it through other weights B (the
`feedback` of a sweep), a `DeltaRule` replaces the delta that arrives at a layer (see `rules.py` for both; the rules
themselves are in the files beside).

    rules = {"": FeedbackAlignment()}
    fixed, learned = init_feedback(model, rules, key, params, x)
    value, (gradient, _) = feedback_value_and_grad(model, loss, rules)((params, learned), fixed, x, targets)

`fixed` stays as it is; `learned` (Kolen-Pollack weights, heads of local losses) is trained beside the parameters, by
the same optimizer if you like: optimizer.init((params, learned)).

A delta rule is a layer behind the one it is for: in the forward pass the identity, with what the rule keeps as its
parameters; its input gradient is the rule's delta, its parameter gradient is what the rule learns. So it works wherever
a layer does, inside Repeat, Recompute and Vmap too.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxbp.backprop import Targets, run
from jaxbp.core.composite import output_of
from jaxbp.core.errors import LayerError, located
from jaxbp.core.insertion import insert, is_called, put_in, take_out
from jaxbp.core.layer import Layer, Params
from jaxbp.core.numerics import is_floating
from jaxbp.core.paths import as_path, from_leaves, is_below, leaves
from jaxbp.core.sweep import Visit, param_gradient
from jaxbp.core.text import describe
from jaxbp.credit.rules import (
    DeltaContext,
    DeltaRule,
    Rules,
    State,
    delta_rules,
    require_rules,
    weight_rules,
    weights_in,
    weights_of,
)
from jaxbp.losses.base import Loss

__all__ = ["Angles", "alignment_angles", "feedback_value_and_grad", "init_feedback"]


class Angles(NamedTuple):
    """Degrees between a layer's delta, or its update, and that of backprop; update is None without parameters."""

    delta: Float[Array, ""]
    update: Float[Array, ""] | None


@dataclass(frozen=True)
class Ruled(Layer):
    """A delta rule as a layer; without a context it is the identity in the backward pass too.

    outputs: shapes of the network's outputs, for `init`.
    context: what the rule looks at, from the residuals (y, rng).
    """

    path: str
    rule: DeltaRule
    outputs: Any = None
    context: Callable[[PyTree, PRNGKeyArray | None], DeltaContext] | None = None

    def init(self, key, y):
        return self.rule.init(key, self.outputs, y)

    def forward(self, kept, y, rng=None):
        return y, (y, rng)

    def input_gradient(self, kept, residuals, g):
        if self.context is None:
            return g
        new, _ = self.rule.delta(kept, self.context(*residuals))
        if jax.tree.map(describe, new) != jax.tree.map(describe, g):
            problem = f"expected a delta like {describe(g)}, but the rule returned {describe(new)}"
            raise LayerError(self, problem, as_path(self.path))
        return new

    def param_gradient(self, kept, residuals, g):
        if self.context is None or not self.rule.learns:
            return jax.tree.map(jnp.zeros_like, kept)
        return self.rule.delta(kept, self.context(*residuals))[1]

    def __str__(self):
        return str(self.rule)


def init_feedback(model: Layer, rules: Rules, key: PRNGKeyArray, params: Params, x: PyTree) -> tuple[State, State]:
    """What the rules keep: (fixed, learned), each a dict by path. x is a batch or its ShapeDtypeStruct."""
    require_rules(model, rules)
    by_path, fixed, learned = leaves(model, params), {}, {}
    if own_deltas := delta_rules(rules):
        for path, rule in own_deltas.items():
            if path and not is_called(model, path, params, x):
                raise ValueError(
                    f'{type(rule).__name__} at "{path}": that layer is a part of a scan, and has no output of its own '
                    "that a delta could be sent to; give it the path of the whole"
                )
        key, own = jax.random.split(key)
        outputs = output_of(model, params, x)
        drawn = insert(model, {path: Ruled(path, rule, outputs) for path, rule in own_deltas.items()}).init(own, x)
        for path, kept in take_out(model, drawn, own_deltas)[1].items():
            (learned if rules[path].learns else fixed)[path] = kept
    for path, rule in weight_rules(model, rules).items():
        if weights := weights_of(model, path, by_path[path]):
            key, *own = jax.random.split(key, len(weights) + 1)
            with located(path):
                (learned if rule.learns else fixed)[path] = tuple(map(rule.init, own, weights))
    for path, rule in rules.items():
        if not any(is_below(kept, path) for kept in (*fixed, *learned)):
            raise ValueError(f'{type(rule).__name__} at "{path}" finds no weights of rank 2 or more to act on')
    return fixed, learned


def feedback_value_and_grad(model: Layer, loss: Loss, rules: Rules) -> Callable[..., tuple[Array, tuple]]:
    """As jaxbp.value_and_grad, with credit sent by the rules.

    Returns:
        A function ((params, learned), fixed, x, targets, rng=None, weights=None, total=None) -> (loss, (gradient,
        gradient of learned)), shaped like its first argument.
    """
    require_rules(model, rules)

    def value_and_gradient(
        trained: tuple[Params, State],
        fixed: State,
        x: PyTree,
        targets: Targets,
        rng: PRNGKeyArray | None = None,
        weights: PyTree = None,
        total: PyTree = None,
    ) -> tuple[Array, tuple[Params, State]]:
        params, learned = trained
        kept = fixed | learned
        value, _, by_rules = two_sweeps(model, loss, rules, params, kept, x, targets, rng, weights, total)
        gradient, of_rules = by_rules(param_gradient)
        by_path, of_weights = leaves(model, gradient), weight_rules(model, rules)
        for path in learned.keys() - of_rules.keys():
            own = (weights_of(model, path, tree[path]) for tree in (leaves(model, params), by_path))
            of_rules[path] = tuple(map(of_weights[path].gradient, learned[path], *own))
        return value, (gradient, {path: of_rules[path] for path in learned})

    return value_and_gradient


def alignment_angles(model: Layer, loss: Loss, rules: Rules) -> Callable[..., dict[str, Angles]]:
    """How far the rules lead away from backprop, layer by layer, at the same parameters and the same batch.

    Returns:
        A function with the arguments of `feedback_value_and_grad`'s -> {path: Angles}, in forward order.
    """
    require_rules(model, rules)

    def angles(trained, fixed, x, targets, rng=None, weights=None, total=None):
        params, learned = trained
        kept = fixed | learned
        _, *sweeps = two_sweeps(model, loss, rules, params, kept, x, targets, rng, weights, total)

        def look(site):
            return site.g, param_gradient(site)

        true, ours = (leaves(model, send(look)[0]) for send in sweeps)
        return {path: Angles(*map(angle, true[path], ours[path])) for path in true}

    return angles


def angle(a: PyTree, b: PyTree) -> Float[Array, ""] | None:
    """Degrees between two trees of arrays, each taken as one vector; NaN if one is zero, None without arrays."""
    a, b = ([leaf.ravel() for leaf in jax.tree.leaves(tree) if is_floating(leaf)] for tree in (a, b))
    if not a:
        return None
    a, b = jnp.concatenate(a), jnp.concatenate(b)
    cosine = jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
    return jnp.degrees(jnp.arccos(jnp.clip(cosine, -1, 1)))


def two_sweeps(
    model: Layer, loss: Loss, rules: Rules, params: Params, kept: State, x, targets, rng, weights, total
) -> tuple[Array, Callable, Callable]:
    """The loss of one forward pass, and two sweeps backward from it: by the chain rule, and by the rules.

    Each takes a visit, and returns what it collected of the model, and by path of the delta rules.
    """
    own = delta_rules(rules)
    if missing := own.keys() - kept.keys():
        raise ValueError(f"nothing is kept for the rules at {sorted(missing)}; do fixed and learned fit these rules?")

    def ruled(context=None):
        return insert(model, {path: Ruled(path, rule, context=context) for path, rule in own.items()})

    inside = put_in(model, params, {path: kept[path] for path in own})
    forward = run(ruled(), loss, inside, x, targets, rng, weights, total)
    e = loss.backward(forward.kept)
    feedback = put_in(model, backward_params(model, rules, params, kept, rng), dict.fromkeys(own))

    def context(y, rng):
        return DeltaContext(e, y, forward.targets, rng, weights, total)

    def backprop(visit: Visit) -> tuple[PyTree, dict[str, PyTree]]:
        return take_out(model, forward.sweep(visit, e)[1], own)

    def by_rules(visit: Visit) -> tuple[PyTree, dict[str, PyTree]]:
        return take_out(model, replace(forward, model=ruled(context)).sweep(visit, e, feedback)[1], own)

    return forward.value, backprop, by_rules


def backward_params(model: Layer, rules: Rules, params: Params, kept: State, rng: PRNGKeyArray | None) -> Params:
    """The `feedback` of a sweep: the parameters with B in place of W where a rule says so, None elsewhere."""
    by_path = leaves(model, params)
    feedback: dict[str, Any] = dict.fromkeys(by_path)
    for i, (path, rule) in enumerate(weight_rules(model, rules).items()):
        if path not in kept:
            continue
        key = None if rng is None else jax.random.fold_in(jax.random.fold_in(rng, 0xFEED), i)
        arrays, is_weight = weights_in(model, path, by_path[path])
        b = iter(kept[path])
        used = [rule.backward_weight(a, next(b), key) if yes else a for a, yes in zip(arrays, is_weight, strict=True)]
        feedback[path] = jax.tree.unflatten(jax.tree.structure(by_path[path]), used)
    return from_leaves(model, feedback)
