"""Proof by comparison: is the hand-written backward pass of a model the derivative of its forward pass?

Everything runs in float64. Two questions are asked at every layer:

    alone        for a random cotangent, are its two gradients the vector-Jacobian product of its forward?
    whole pass   are the δ that reaches it, and the gradients it returns, those of jax.grad of the whole loss?

The first finds who is wrong, whatever came from above; the second that the parts were put together right. Where all
layers are right alone and the whole is not, the composites are asked the first question too, the innermost first.
"""

from collections.abc import Iterator
from math import prod

import jax
from jaxtyping import PRNGKeyArray, PyTree

from jaxbp.backprop import run
from jaxbp.core.layer import Layer, Params
from jaxbp.core.paths import as_path, layers, leaves_of, turns_around
from jaxbp.core.recording import Record
from jaxbp.core.shared import uses_of
from jaxbp.interop import merge, split_floating
from jaxbp.losses.base import Loss
from jaxbp.verification.diagnosis import likely_mistake, relative_error
from jaxbp.verification.layer_vjp import FLOOR, float64, judge_all, named_leaves, norm, raised
from jaxbp.verification.one_pass import OnePass, Sites, has_own
from jaxbp.verification.report import Finding, Report


def check_gradients(
    model: Layer,
    loss: Loss,
    params: Params,
    x: PyTree,
    targets: PyTree,
    rng: PRNGKeyArray | None = None,
    weights: PyTree = None,
    tolerance: float = 1e-9,
) -> Report:
    """Compares every delta and every gradient with jax.grad in float64, whatever the dtype of the arguments.

    Args:
        model: any layer; a layer of the user's own is a leaf like all others.
        loss: any loss.
        params: the model's parameters.
        x: inputs, an array or a tree of arrays, examples first; a handful is enough.
        targets: what the loss expects.
        rng: a key checks the training mode (dropout).
        weights: one number per example, or what else the loss takes.
        tolerance: the relative error that is still called right.

    Returns:
        A report: `print` shows the table, `report.ok` the verdict, and `report.first_wrong` the first wrong layer in
        backward order with the likely mistake. Of a layer that is used several times, each use is judged.
    """
    with jax.enable_x64(True):
        params, x, targets, weights = float64((params, x, targets, weights))
        forward = run(model, loss, params, x, targets, rng, weights)  # errors about the input surface unchanged
        return Report(tuple(_findings(OnePass(forward, rng, weights), tolerance)), tolerance)


def _findings(one: OnePass, tolerance: float) -> Iterator[Finding]:
    """Every gradient of the run, in backward order."""
    sites, examples, named = one.sites(), jax.tree.leaves(one.forward.x)[0].shape[0], leaves_of(one.model)
    of_loss, g = _judge_loss(one, examples, tolerance)
    alone = {
        path: judge_all(layer, path, records_of(one.model, path, sites), examples, tolerance)
        for path, layer in named.items()
    }
    blamed = any(finding.mistake for finding in of_loss)
    blamed = blamed or any(mistake for at in alone.values() for _, mistake in at.values())
    try:
        whole = _compare_whole(one, one.by_hand(g), one.by_autodiff(sites), g)
    except Exception:
        if not blamed:
            raise
        whole = {}  # the wrong layer made the pass raise; its own finding explains why

    yield from of_loss
    inputs = ["input"] if jax.tree.leaves(split_floating(one.forward.x)[0]) else []
    for path in [*reversed(named), *inputs]:
        here = {what: error for (p, what), error in whole.items() if p == path}
        if not blamed and any(error > tolerance for error in here.values()):
            yield _blame_composite(one, max(here.values()), examples, tolerance)
            blamed = True
        layer = "x" if path == "input" else str(named[path])
        if "delta" in here or not whole:
            yield Finding(path, layer, "delta", here.get("delta"))
        for what, (error, mistake) in alone.get(path, {}).items():
            yield Finding(path, layer, what, here.get(what), error, mistake)


def records_of(model: Layer, path: str, sites: Sites) -> dict[str, tuple[Params, Record]]:
    """Parameters and record of every use of a layer, and of every copy of it that a composite has stacked, by name."""
    params, records = sites[path]
    depth, found = turns_around(model, path), {}
    uses = uses_of(records)
    for use, record in enumerate(uses):
        which = f"in use {use + 1} of {len(uses)}" if len(uses) > 1 else ""
        if depth == 0:
            found[which] = params, record
            continue
        flat = jax.tree.map(lambda a: a.reshape(prod(a.shape[:depth]), *a.shape[depth:]), (params, record))
        for i in range(jax.tree.leaves(flat)[0].shape[0]):
            found[f"{which} in copy {i}".strip()] = jax.tree.map(lambda a, i=i: a[i], flat)
    return found


def _judge_loss(one: OnePass, examples: int, tolerance: float) -> tuple[list[Finding], PyTree]:
    """The loss's own gradient at each output, and what it sends down."""
    moving, fixed = split_floating(one.forward.outputs)
    true = _gradient_of_loss(one, moving, fixed)
    try:
        g = one.loss.backward(one.value(one.forward.outputs)[1])
    except Exception as error:
        return [Finding("loss", str(one.loss), "delta", whole=float("inf"), mistake=raised(error))], None
    given, findings = dict(named_leaves(g)), []
    unweighted = None if one.weights is None else dict(named_leaves(_gradient_of_loss(one, moving, fixed, False)))
    for name, b in named_leaves(true):
        mistake, error = "it is missing", float("inf")
        if name in given:
            mistake, error = None, relative_error(given[name], b, 0.0)
            if not error <= tolerance:
                left_out = {} if unweighted is None else {"the weights per example are left out": unweighted[name]}
                mistake = likely_mistake(given[name], b, examples, left_out)
        findings.append(Finding("loss", str(one.loss), f"delta {name}".strip(), whole=error, mistake=mistake))
    return findings, g


def _gradient_of_loss(one: OnePass, moving: PyTree, fixed: PyTree, weighted: bool = True) -> PyTree:
    return jax.grad(lambda moving: one.value(merge(moving, fixed), weighted)[0])(moving)


def _compare_whole(one, ours, true, g) -> dict[tuple[str, str], float]:
    """By path and quantity: the relative error of the whole pass."""
    (dx, by_hand), (true_dx, by_autodiff) = ours, true
    floor, errors, named = FLOOR * norm(g), {}, leaves_of(one.model)
    for path, right in by_autodiff.items():
        found = by_hand[path]
        if right.deltas is not None:
            errors[path, "delta"] = _tree_error(found.deltas, right.deltas, floor)
        for (name, a), (_, b) in zip(named_leaves(found.gradient), named_leaves(right.gradient), strict=True):
            if name not in named[path].statistics:
                errors[path, f"gradient of {name}"] = relative_error(a, b, floor)
    errors["input", "delta"] = _tree_error(dx, true_dx, floor)
    return errors


def _blame_composite(one: OnePass, error: float, examples: int, tolerance: float) -> Finding:
    """All leaves are right alone, but the whole is not: a composite between them is wrong.

    The innermost that is wrong alone is to blame. Those with a backward pass of their own are asked first, as a wiring
    is reversed by the core.
    """
    composites = {path: layer for path, layer in layers(one.model) if layer.children}
    order = sorted(
        reversed(composites), key=lambda path: (not has_own(composites[path], "backward"), -len(as_path(path)))
    )
    for path in order:
        judged = judge_all(composites[path], path, records_of(one.model, path, one.sites([path])), examples, tolerance)
        if any(mistake for _, mistake in judged.values()):
            break
    else:
        path = ""
    mistake = "the layers inside are right alone, but the delta is sent past or through them wrongly"
    return Finding(path, str(composites[path]), "input gradient", whole=error, mistake=mistake)


def _tree_error(a: PyTree, b: PyTree, floor: float) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max((relative_error(p, q, floor) for p, q in pairs), default=0.0)
