"""Evaluation: what a loss measures over all examples, batch by batch, as if they were one batch."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

from jaxbp.backprop import require_parts
from jaxbp.core.composite import output_of
from jaxbp.core.errors import require_alive
from jaxbp.core.layer import Layer, Params
from jaxbp.core.paths import as_path
from jaxbp.losses.base import Loss, Weights
from jaxbp.losses.penalized import Penalties, penalized_forward, penalty_values
from jaxbp.losses.penalties import example_shares
from jaxbp.training.data import Examples, count, examples_of, require_data
from jaxbp.training.step import TrainState

Numbers = dict[str, float | list[float]]  # a number by name or, of an ensemble, one for each member


def evaluate(
    model: Layer,
    loss: Loss,
    params: Params | TrainState,
    x: PyTree,
    targets: PyTree,
    batch_size: int = 1000,
    weights: Weights | None = None,
    penalties: Penalties | None = None,
) -> Numbers:
    """The loss over all examples, and what it measures beside ("accuracy"), without dropout.

    Args:
        model: any layer.
        loss: any loss. A `SumOfLosses` tells its parts' numbers under their names too. A loss that mixes examples sees
            one batch at a time.
        params: the parameters, or the state of a training; of an ensemble's state every number is a list with one
            for each member.
        x, targets: arrays or trees of arrays, examples first.
        batch_size: how many examples are run at once.
        weights: one number per example, or per label.
        penalties: by path, as in `value_and_grad`: they are added to "loss" and told as "penalty" and the path.
    """
    require_parts(model, loss)
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, not {batch_size}")
    stacked = isinstance(params, TrainState) and params.is_stacked
    params = params.params if isinstance(params, TrainState) else params
    require_alive(params=params)
    examples = examples_of((x, targets, weights))
    require_data(model, loss, first_member(params) if stacked else params, examples)
    plan = Plan(model, loss, batch_size, tuple((penalties or {}).items()))
    return measure(plan, params, examples, stacked)


class Plan(NamedTuple):
    """What is compiled for; penalties are the items of a dict by path."""

    model: Layer
    loss: Loss
    batch_size: int
    penalties: tuple


def measure(plan: Plan, params: Params, examples: Examples, stacked: bool) -> Numbers:
    """The numbers of `evaluate`, of data that are known to fit."""
    found = _sums(plan, stacked, params, examples)
    if not stacked:
        return _numbers(plan.loss, found)
    members = [_numbers(plan.loss, jax.tree.map(lambda a: a[i], found)) for i in range(count(params))]  # noqa: B023
    return {name: [member[name] for member in members] for name in members[0]}


def _numbers(loss, found) -> dict[str, float]:
    measures, penalties = found
    numbers = loss.summary(measures)
    numbers["loss"] = sum(penalties.values(), numbers["loss"])
    numbers |= {".".join(("penalty", *as_path(path))): value for path, value in penalties.items()}
    return {name: float(value) for name, value in numbers.items()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sums(plan, stacked, params, examples):
    """The loss's measures and the penalties, added up over all batches."""
    if stacked:
        return jax.vmap(lambda member: _sums(plan, False, member, examples))(params)
    model, loss, batch_size, penalties = *plan[:3], dict(plan.penalties)
    total = loss.total(output_of(model, params, examples.x), examples.targets, examples.weights) if penalties else None

    def of_batch(batch):
        outputs, residuals = penalized_forward(model, penalties, params, batch.x, None)
        measures = loss.measure(outputs, batch.targets, batch.weights)
        share = example_shares(loss, outputs, batch.targets, batch.weights, total) if penalties else None
        return measures, penalty_values(model, penalties, residuals, share)

    n = count(examples)
    full, parts = n - n % batch_size, []
    if full:
        batches = jax.tree.map(lambda a: a[:full].reshape(-1, batch_size, *a.shape[1:]), examples)
        parts.append(jax.tree.map(lambda a: jnp.sum(a, 0), lax.map(of_batch, batches)))
    if full < n:
        parts.append(of_batch(jax.tree.map(lambda a: a[full:], examples)))
    return jax.tree.map(lambda *terms: sum(terms), *parts)


def first_member(params: PyTree) -> PyTree:
    """The parameters of an ensemble's first member."""
    return jax.tree.map(lambda a: a[0], params)
