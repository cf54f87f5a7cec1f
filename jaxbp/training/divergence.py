"""What to say when a loss stops being a number: at which step, and in which layer it began.

The first thing that is not finite is looked for in the order in which things are computed: the outputs, layer by layer;
the loss. Where the parameters themselves are bad already, the step before made them so: then the deltas and gradients
of that step, in backward order; else its update.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxbp.backprop import run
from jaxbp.core.layer import Params
from jaxbp.core.numerics import is_floating
from jaxbp.core.paths import layers, leaves
from jaxbp.core.recording import for_records, record_of, recorded
from jaxbp.core.sweep import param_gradient
from jaxbp.training.recipe import Recipe

HUGE = 1e10  # no output of a network that learns is as large


class Diverged(FloatingPointError):
    """Training met a loss that is not finite.

    step: the update at which it happened, counted from 0.
    path: the layer at which it began; None where all layers are well and the loss is not.
    """

    def __init__(self, message: str, step: int, path: str | None):
        super().__init__(message)
        self.step, self.path = step, path


class Moment(NamedTuple):
    """What one training step was computed from."""

    params: Params
    x: PyTree
    targets: PyTree
    rng: PRNGKeyArray
    weights: PyTree = None


def explain(recipe: Recipe, step: int, value: float, now: Moment, previous: Moment | None) -> Diverged:
    """The error that says what went wrong at `step`, from the moments of this step and the one before."""
    named = dict(layers(recipe.model))

    def error(path, happened):
        where = "the loss" if path is None else f'layer "{path}", {named[path]}'
        return Diverged(f"the loss is {value} at step {step}. It began in {where}: {happened}.", step, path)

    outputs, _, _, params = look(recipe, now)
    if path := first_bad(params):
        advice = "a smaller learning rate or gradient clipping (optax.clip_by_global_norm) may help"
        if previous is not None:
            _, deltas, gradients, _ = look(recipe, previous)
            if bad := first_bad(dict(reversed(deltas.items()))):
                return error(bad[0], f"the delta that reached it in step {step - 1} was not finite; {advice}")
            if bad := first_bad(dict(reversed(gradients.items()))):
                return error(bad[0], f"its gradient in step {step - 1} was not finite; {advice}")
        path = first_bad(dict(reversed(params.items())))
        return error(path[0], f"its parameters were not finite after the update before; {advice}")
    if path := first_bad(outputs):
        return error(
            path[0],
            "it returned numbers that are not finite from finite parameters; a smaller learning rate "
            "or smaller initial weights may help",
        )
    path, largest = max(((path, size(y)) for path, y in outputs.items()), key=lambda pair: pair[1])
    if largest > HUGE:
        return error(
            path,
            f"it returned numbers as large as {largest:.0e}, whose loss overflows; a smaller learning rate or gradient "
            "clipping (optax.clip_by_global_norm) may help",
        )
    return error(None, "all layers returned finite numbers; look at the targets (labels out of range?)")


def look(recipe: Recipe, moment: Moment):
    """Outputs, deltas, gradients and parameters of one step, each by path."""

    def visit(site):
        return record_of(site).y, site.g, param_gradient(site), site.params

    @jax.jit
    def see(moment):
        forward = run(recorded(recipe.model), recipe.loss, *moment, penalties=dict(recipe.penalties))
        return forward.sweep(visit, edits=for_records(dict(recipe.edits)))[1]

    seen = leaves(recipe.model, see(moment))
    return tuple({path: entry[i] for path, entry in seen.items()} for i in range(4))


def first_bad(by_path: dict[str, PyTree]) -> tuple[str] | None:
    """The first path with a non-finite value, in a tuple because "" is a path too."""
    for path, tree in by_path.items():
        if not all(is_finite(array) for array in jax.tree.leaves(tree)):
            return (path,)
    return None


def size(tree: PyTree) -> float:
    """The largest absolute value."""
    return max((float(jnp.max(jnp.abs(array))) for array in jax.tree.leaves(tree) if is_floating(array)), default=0.0)


def is_finite(array: Array) -> bool:
    """Whether all numbers are."""
    return bool(jnp.all(jnp.isfinite(array)))
