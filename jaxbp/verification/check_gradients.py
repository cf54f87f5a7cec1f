"""Proof by comparison: is the hand-written backward pass of a model the derivative of its forward pass?

Everything runs in float64. Two questions are asked at every layer:

    alone        for a random cotangent, are its two gradients the vector-Jacobian product of its forward?
    whole pass   are the δ that reaches it, and the gradients it returns, those of jax.grad of the whole loss?

The first finds who is wrong, whatever came from above; the second that the parts were put together right. The true δ is
a gradient too: that of the loss in a tap, a zero that is added to the layer's output.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxbp.backprop import require_examples
from jaxbp.combinators import Repeat
from jaxbp.core.layer import Layer, Params
from jaxbp.core.paths import from_leaves, layers, leaves, leaves_of, map_layers
from jaxbp.core.recording import Recorded
from jaxbp.core.sweep import param_gradient, sweep
from jaxbp.interop import merge, split_floating
from jaxbp.losses.base import Loss
from jaxbp.verification.diagnosis import likely_mistake, relative_error
from jaxbp.verification.layer_vjp import FLOOR, float64, judge_turns, named_leaves, norm, raised
from jaxbp.verification.report import Finding, Report


def check_gradients(
    model: Layer,
    loss: Loss,
    params: Params,
    x: PyTree,
    targets: PyTree,
    rng: PRNGKeyArray | None = None,
    weights: Array | None = None,
    tolerance: float = 1e-9,
) -> Report:
    """Compares every delta and every gradient with jax.grad in float64, whatever the dtype of the arguments.

    Args:
        model: any layer; a layer of the user's own is a leaf like all others.
        loss: any loss.
        params: the model's parameters.
        x: inputs, examples first; a handful is enough.
        targets: what the loss expects.
        rng: a key checks the training mode (dropout).
        weights: one number per example.
        tolerance: the relative error that is still called right.

    Returns:
        A report: `print` shows the table, `report.ok` the verdict, and `report.first_wrong` the first wrong layer in
        backward order with the likely mistake.
    """
    require_examples(x)
    with jax.enable_x64(True):
        params, x, targets, weights = float64((params, x, targets, weights))
        outputs, residuals = model.forward(params, x, rng)  # wrong input is told in its own words
        pass_ = _Pass(model, loss, params, x, targets, rng, weights, outputs, residuals)
        return Report(tuple(_findings(pass_, tolerance)), tolerance)


class _Tapped(Layer):
    """A layer with a tap on its output: y + tap. The gradient of a loss in the tap is the layer's δ."""

    def __init__(self, layer: Layer):
        self.layer = layer

    def forward(self, params, x, rng=None):
        y, residuals = self.layer.forward(params["layer"], x, rng)
        moving, fixed = split_floating(y)
        return merge(jax.tree.map(jnp.add, moving, params["tap"]), fixed), residuals


class _Seen(Recorded):
    """A recorded layer that sends on zeros: whatever its gradients are, all that is below gets recorded too."""

    def input_gradient(self, params, record, g):
        return jax.tree.map(jnp.zeros_like, split_floating(record.x)[0])


@dataclass(frozen=True)
class _Pass:
    """One forward and backward pass, the hand-written one and the true one."""

    model: Layer
    loss: Loss
    params: Params
    x: PyTree
    targets: PyTree
    rng: PRNGKeyArray | None
    weights: Array | None
    outputs: PyTree
    residuals: PyTree

    def value(self, outputs, weighted=True):
        return self.loss.forward(outputs, self.targets, self.weights if weighted else None)

    def sites(self) -> PyTree:
        """The tree of (params, record)."""
        seen = map_layers(self.model, lambda path, layer: _Seen(layer))
        _, records = seen.forward(self.params, self.x, self.rng)
        g = jax.tree.map(jnp.zeros_like, split_floating(self.outputs)[0])
        return sweep(seen, self.params, records, g, lambda site: (site.params, site.residuals))[1]

    def by_hand(self, g) -> tuple[PyTree, PyTree]:
        """∂J/∂x, and the tree of (δ, gradient)."""
        return sweep(self.model, self.params, self.residuals, g, lambda site: (site.g, param_gradient(site)))

    def by_autodiff(self, kept) -> tuple[PyTree, PyTree]:
        """The same two; `kept` is the tree of `sites`, which tells the taps' shapes."""
        taps = {
            path: {"layer": params, "tap": jax.tree.map(jnp.zeros_like, split_floating(record.y)[0])}
            for path, (params, record) in leaves(self.model, kept).items()
        }
        tapped = map_layers(self.model, lambda path, layer: _Tapped(layer))
        moving, fixed = split_floating(self.x)

        def value(taps, moving):
            outputs, _ = tapped.forward(from_leaves(self.model, taps), merge(moving, fixed), self.rng)
            return self.value(outputs)[0]

        taps, dx = jax.grad(value, (0, 1))(taps, moving)
        return dx, from_leaves(self.model, {path: (at["tap"], at["layer"]) for path, at in taps.items()})


def _findings(run: _Pass, tolerance: float) -> Iterator[Finding]:
    """Every gradient of the run, in backward order."""
    kept = run.sites()
    sites = leaves(run.model, kept)
    examples = jax.tree.leaves(run.x)[0].shape[0]
    loss_finding, g = _judge_loss(run, examples, tolerance)
    alone = {
        path: judge_turns(layer, path, turns(run.model, path, sites[path]), examples, tolerance)
        for path, layer in leaves_of(run.model).items()
    }
    mistaken = loss_finding.mistake or any(mistake for at in alone.values() for _, mistake in at.values())
    try:
        whole = _compare_whole(run, run.by_hand(g), run.by_autodiff(kept), g)
    except Exception:
        if not mistaken:
            raise
        whole = {}  # a wrong layer has brought the pass down; its finding says which

    yield loss_finding
    last, blamed = "", bool(mistaken)
    for path, layer in reversed(leaves_of(run.model).items()):
        if not blamed and whole[path, "delta"] > tolerance:
            yield _blame_composite(run.model, last, path, whole[path, "delta"])
            blamed = True
        yield Finding(path, str(layer), "delta", whole.get((path, "delta")))
        for what, (error, mistake) in alone[path].items():
            yield Finding(path, str(layer), what, whole.get((path, what)), error, mistake)
        last = path
    if jax.tree.leaves(split_floating(run.x)[0]):
        if not blamed and whole["input", "delta"] > tolerance:
            yield _blame_composite(run.model, last, "input", whole["input", "delta"])
        yield Finding("input", "x", "delta", whole.get(("input", "delta")))


def _judge_loss(run, examples, tolerance) -> tuple[Finding, PyTree]:
    """The loss's own gradient, and what it sends down."""
    true = jax.grad(lambda y: run.value(y)[0])(run.outputs)
    try:
        g = run.loss.backward(run.value(run.outputs)[1])
    except Exception as error:
        return Finding("loss", str(run.loss), "delta", whole=float("inf"), mistake=raised(error)), None
    error, mistake = relative_error(as_one(g), as_one(true), 0.0), None
    if error > tolerance:
        candidates = {}
        if run.weights is not None:
            unweighted = jax.grad(lambda y: run.value(y, weighted=False)[0])(run.outputs)
            candidates["the weights per example are left out"] = as_one(unweighted)
        mistake = likely_mistake(as_one(g), as_one(true), examples, candidates)
    return Finding("loss", str(run.loss), "delta", whole=error, mistake=mistake), g


def _compare_whole(run, ours, true, g) -> dict[tuple[str, str], float]:
    """By path and quantity: the relative error of the whole pass."""
    (dx, by_hand), (true_dx, by_autodiff) = ours, true
    floor, errors, named = FLOOR * norm(g), {}, leaves_of(run.model)
    for path, (true_delta, true_gradient) in leaves(run.model, by_autodiff).items():
        delta, gradient = leaves(run.model, by_hand)[path]
        errors[path, "delta"] = _tree_error(delta, true_delta, floor)
        for (name, a), (_, b) in zip(named_leaves(gradient), named_leaves(true_gradient), strict=True):
            if name in named[path].statistics:
                continue
            errors[path, f"gradient of {name}"] = relative_error(a, b, floor)
    errors["input", "delta"] = _tree_error(dx, true_dx, floor)
    return errors


def _blame_composite(model, above: str, below: str, error: float) -> Finding:
    """All layers are right alone, δ was right at `above` and is wrong at `below`: a composite on the way is not.

    On the way lie those that δ leaves, the one it stays in, and those it enters. The user's own come first, for those
    of `jaxbp.combinators` are proven.
    """
    composites = {path: layer for path, layer in layers(model) if layer.children}

    def holds(composite, path):
        return path != "input" and (composite == "" or path.startswith(f"{composite}."))

    left = [path for path in composites if holds(path, above) and not holds(path, below)]
    both = [path for path in composites if holds(path, above) and holds(path, below)]
    entered = [path for path in composites if not holds(path, above) and holds(path, below)]
    on_the_way = [*left, *reversed(both), *entered]
    path = next(
        (path for path in on_the_way if type(composites[path]).__module__ != "jaxbp.combinators"), on_the_way[0]
    )
    mistake = "the layers inside are right alone, but the delta is sent past or through them wrongly"
    return Finding(path, str(composites[path]), "input gradient", whole=error, mistake=mistake)


def turns(model: Layer, path: str, tree: PyTree) -> list[PyTree]:
    """What a sweep collected at a leaf layer, one entry for each turn of the Repeats around it."""
    around = [layer for name, layer in layers(model) if name == "" or path.startswith(f"{name}.")]
    depth = sum(isinstance(layer, Repeat) for layer in around if layer is not model or path)
    if depth == 0:
        return [tree]
    flat = jax.tree.map(lambda a: a.reshape(prod(a.shape[:depth]), *a.shape[depth:]), tree)
    return [jax.tree.map(lambda a, i=i: a[i], flat) for i in range(jax.tree.leaves(flat)[0].shape[0])]


def as_one(tree: PyTree) -> Array:
    """An array as it is; the arrays of a tree one behind the other."""
    arrays = jax.tree.leaves(tree)
    return arrays[0] if len(arrays) == 1 else jnp.concatenate([a.ravel() for a in arrays])


def _tree_error(a: PyTree, b: PyTree, floor: float) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max((relative_error(p, q, floor) for p, q in pairs), default=0.0)
