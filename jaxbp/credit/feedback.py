"""Other ways to send credit: how the delta travels is changed, not how a layer learns from it.

Backprop sends δ back through the weights W of the forward pass. A `WeightRule` sends it through other weights B of the
same shape (the `feedback` of a sweep), a `DeltaRule` replaces the delta that arrives at a layer (an edit). Rules are
given by path: weight rules for all layers at or below it, the longest path first, delta rules for the output of that
very layer. Where there is no rule, backprop stays. The rules themselves are in the files beside this one.

    rules = {"": FeedbackAlignment()}
    fixed, learned = init_feedback(model, rules, key, params, x)
    value, (gradient, _) = feedback_value_and_grad(model, loss, rules)((params, learned), fixed, x, targets)

`fixed` stays as it is; `learned` (Kolen-Pollack weights, heads of local losses) is trained beside the parameters, by
the same optimizer if you like: optimizer.init((params, learned)).

B stands for weights only, arrays of rank 2 or more: scales and biases stay what they are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxbp.backprop import Targets, require_examples
from jaxbp.combinators import Recompute, Repeat
from jaxbp.core.errors import located
from jaxbp.core.layer import Layer, Params
from jaxbp.core.numerics import is_floating
from jaxbp.core.paths import from_leaves, is_below, join, layers, leaves, require_paths, turns_around
from jaxbp.core.sweep import param_gradient, sweep
from jaxbp.losses.base import Loss

State = dict[str, Any]  # what a rule keeps, by path


class WeightRule:
    """B in the place of W. `learns`: whether B is trained with the gradient of W, rather than fixed."""

    learns = False

    def init(self, key: PRNGKeyArray, weight: Array) -> Array:
        """What is kept for one weight."""
        raise NotImplementedError

    def backward_weight(self, weight: Array, kept: Array, key: PRNGKeyArray | None) -> Array:
        """B, shaped like W; the key is the batch's own, None where the caller gave no rng."""
        return kept


class DeltaRule:
    """A delta of its own in the place of the one that arrives. `learns`: whether `init` gives what is to be trained."""

    learns = False

    def init(self, key: PRNGKeyArray, outputs: jax.ShapeDtypeStruct, y: jax.ShapeDtypeStruct) -> PyTree:
        """What is kept, for a network with these outputs [n, ...] and a layer with the output y [n, ...]."""
        raise NotImplementedError

    def delta(self, kept: PyTree, arrived: "DeltaContext") -> tuple[Array, PyTree]:
        """The layer's delta, shaped like y, and the gradient of what is kept (() where nothing learns)."""
        raise NotImplementedError


class DeltaContext(NamedTuple):
    """What a delta rule may look at. e: the delta at the network's output. y: the layer's own output."""

    e: Array
    y: Array
    targets: Targets
    rng: PRNGKeyArray | None
    weights: Array | None
    total: Array | None


Rules = Mapping[str, Any]  # WeightRule or DeltaRule by path


class Angles(NamedTuple):
    """Degrees between a layer's delta, or its update, and that of backprop; update is None without parameters."""

    delta: Float[Array, ""]
    update: Float[Array, ""] | None


def init_feedback(model: Layer, rules: Rules, key: PRNGKeyArray, params: Params, x: PyTree) -> tuple[State, State]:
    """What the rules keep: (fixed, learned), each a dict by path. x is a batch or its ShapeDtypeStruct."""
    require_rules(model, rules)
    by_path, fixed, learned = leaves(model, params), {}, {}
    shapes = outputs_of(model, params, x, [path for path, rule in rules.items() if isinstance(rule, DeltaRule)])
    for path, rule in rules.items():
        if isinstance(rule, DeltaRule):
            key, own = jax.random.split(key)
            (learned if rule.learns else fixed)[path] = rule.init(own, shapes[None], shapes[path])
    for path, rule in weight_rules(model, rules).items():
        weights = [p for p, is_weight in zip(*weights_in(model, path, by_path[path]), strict=True) if is_weight]
        if weights:
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
    both = _sweeps(model, loss, rules)

    def value_and_gradient(
        trained: tuple[Params, State],
        fixed: State,
        x: PyTree,
        targets: Targets,
        rng: PRNGKeyArray | None = None,
        weights: Float[Array, " n"] | None = None,
        total: Float[Array, ""] | None = None,
    ) -> tuple[Array, tuple[Params, State]]:
        value, _, send, learned_gradient = both(trained, fixed, x, targets, rng, weights, total)
        gradient = send(param_gradient)
        return value, (gradient, learned_gradient(gradient))

    return value_and_gradient


def alignment_angles(model: Layer, loss: Loss, rules: Rules) -> Callable[..., dict[str, Angles]]:
    """How far the rules lead away from backprop, layer by layer, at the same parameters and the same batch.

    Returns:
        A function with the arguments of `feedback_value_and_grad`'s -> {path: Angles}, in forward order.
    """
    both = _sweeps(model, loss, rules)

    def angles(trained, fixed, x, targets, rng=None, weights=None, total=None):
        _, backprop, send, _ = both(trained, fixed, x, targets, rng, weights, total)
        ways = [leaves(model, way(lambda site: (site.g, param_gradient(site)))) for way in (backprop, send)]
        return {path: Angles(*map(angle, ways[0][path], ways[1][path])) for path in ways[0]}

    return angles


def angle(a: PyTree, b: PyTree) -> Float[Array, ""] | None:
    """Degrees between two trees of arrays, each taken as one vector; NaN if one is zero, None without arrays."""
    a, b = ([leaf.ravel() for leaf in jax.tree.leaves(tree) if is_floating(leaf)] for tree in (a, b))
    if not a:
        return None
    a, b = jnp.concatenate(a), jnp.concatenate(b)
    cosine = jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
    return jnp.degrees(jnp.arccos(jnp.clip(cosine, -1, 1)))


def _sweeps(model, loss, rules):
    """Forward, and then two ways back: (loss, by backprop, by the rules, the gradient of what is learned)."""
    require_rules(model, rules)
    delta_rules = {path: rule for path, rule in rules.items() if isinstance(rule, DeltaRule)}

    def run(trained, fixed, x, targets, rng, weights, total):
        require_examples(x)
        params, learned = trained
        kept = fixed | learned
        found: dict[str, Array] = {}
        outputs, residuals = tapped(model, delta_rules, found).forward(params, jax.tree.map(jnp.asarray, x), rng)
        value, loss_kept = loss.forward(outputs, targets, weights, total)
        e = loss.backward(loss_kept)
        edits, learned_gradient = {}, {}
        for path, rule in delta_rules.items():
            arrived = DeltaContext(e, found[path], targets, rng, weights, total)
            d, gradient = rule.delta(kept[path], arrived)
            edits[path] = lambda _, d=d: d
            if rule.learns:
                learned_gradient[path] = gradient
        feedback = backward_params(model, rules, params, kept, rng)

        def backprop(visit):
            return sweep(model, params, residuals, e, visit)[1]

        def send(visit):
            return sweep(model, params, residuals, e, visit, feedback, edits)[1]

        def all_learned(gradient):
            by_path = leaves(model, gradient)
            for path in learned.keys() - learned_gradient.keys():
                arrays, is_weight = weights_in(model, path, by_path[path])
                learned_gradient[path] = tuple(a for a, yes in zip(arrays, is_weight, strict=True) if yes)
            return learned_gradient

        return value, backprop, send, all_learned

    return run


def backward_params(model: Layer, rules: Rules, params: Params, kept: State, rng: PRNGKeyArray | None) -> Params:
    """The `feedback` of a sweep: the parameters with B in place of W where a rule says so, None elsewhere."""
    feedback: dict[str, Any] = dict.fromkeys(leaves(model, params))
    for i, (path, rule) in enumerate(weight_rules(model, rules).items()):
        if path not in kept:
            continue
        key = None if rng is None else jax.random.fold_in(jax.random.fold_in(rng, 0xFEED), i)
        own = leaves(model, params)[path]
        arrays, is_weight = weights_in(model, path, own)
        b = iter(kept[path])
        used = [rule.backward_weight(a, next(b), key) if yes else a for a, yes in zip(arrays, is_weight, strict=True)]
        feedback[path] = jax.tree.unflatten(jax.tree.structure(own), used)
    return from_leaves(model, feedback)


def weight_rules(model: Layer, rules: Rules) -> dict[str, WeightRule]:
    """The weight rule of each leaf layer that has one: that with the longest path."""
    chosen = {}
    for path, layer in layers(model):
        above = [p for p, rule in rules.items() if isinstance(rule, WeightRule) and is_below(path, p)]
        if above and not layer.children:
            chosen[path] = rules[max(above, key=len)]
    return chosen


def weights_in(model: Layer, path: str, tree: Params) -> tuple[list[Array], list[bool]]:
    """The arrays of a layer's parameters, and which are weights: rank 2 or more, without the turns of a `Repeat`."""
    turns = turns_around(model, path)
    arrays = jax.tree.leaves(tree)
    return arrays, [a.ndim - turns >= 2 for a in arrays]


def require_rules(model: Layer, rules: Rules) -> None:
    """Refuses unknown paths, what is no rule, and deltas from where outputs can't be looked at."""
    require_paths(model, rules)
    hidden = [p for p, layer in layers(model) if isinstance(layer, Repeat | Recompute)]
    for path, rule in rules.items():
        if not isinstance(rule, WeightRule | DeltaRule):
            raise TypeError(f'expected a rule at "{path}", such as FeedbackAlignment(), got {rule!r}')
        if isinstance(rule, DeltaRule) and any(path != top and is_below(path, top) for top in hidden):
            raise ValueError(
                f'{type(rule).__name__} at "{path}" is inside a Repeat or Recompute, where outputs are not at hand; '
                "give it the path of the whole, or write the layers out in a Serial"
            )


def outputs_of(model: Layer, params: Params, x: PyTree, paths: list[str]) -> dict[str | None, jax.ShapeDtypeStruct]:
    """Shapes of the outputs by path; the network's own under None."""

    def run(params, x):
        found: dict[str, Array] = {}
        y, _ = tapped(model, paths, found).forward(params, x)
        return y, found

    y, found = jax.eval_shape(run, params, x)
    return {None: y, **found}


@dataclass(frozen=True)
class Tap(Layer):
    """The layer, with its output put down in `found` while forward is traced."""

    layer: Layer
    path: str
    found: dict

    def forward(self, params, x, rng=None):
        y, residuals = self.layer.forward(params, x, rng)
        self.found[self.path] = y
        return y, residuals


def tapped(model: Layer, paths, found: dict, path: str = "") -> Layer:
    """The model for one forward pass that leaves the outputs at these paths in `found`."""
    if model.children:
        model = model.rebuild(
            {name: tapped(child, paths, found, join(path, name)) for name, child in model.children.items()}
        )
    return Tap(model, path, found) if path in paths else model
