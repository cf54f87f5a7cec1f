"""The loop around the step: epochs over data in memory, each of them one compiled scan.

In each epoch every example is taken once, in an order drawn from the state's key and step. Where a state is an ensemble
(`TrainState.create_ensemble`), all members go through the epoch at once, each in an order of its own.
"""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray
from tqdm.auto import tqdm

from jaxbp.core.errors import require_alive
from jaxbp.core.layer import Layer
from jaxbp.core.sweep import Edits
from jaxbp.losses.base import Loss
from jaxbp.training.data import Data, Examples, count, examples_of, require_data
from jaxbp.training.divergence import Diverged, Moment, explain
from jaxbp.training.evaluation import Plan, first_member, measure
from jaxbp.training.recipe import Augment, Recipe
from jaxbp.training.step import TrainState, step_key, update

History = dict[str, list]  # one entry per epoch: a number or, of an ensemble, a list with one for each member


def epoch_order(state: TrainState, examples: int) -> Int[Array, " n"]:
    """The order in which the coming epoch takes the examples."""
    return jax.random.permutation(jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step), examples)


def take(recipe: Recipe, state: TrainState, examples: Examples, indices: Int[Array, " b"]) -> Examples:
    """The examples at `indices`, augmented."""
    batch = jax.tree.map(lambda array: array[indices], examples)
    key = jax.random.fold_in(jax.random.fold_in(state.key, 2), state.step)
    x, targets = recipe.augmented(key, batch.x, batch.targets)
    return batch._replace(x=x, targets=targets)


def train_epoch(recipe: Recipe, state: TrainState, data: Data) -> tuple[TrainState, Float[Array, "*members steps"]]:
    """Every example once, in random order, as one compiled scan; returns the new state and the steps' losses.

    The examples left over from the last full batch make a smaller step of their own, in micro-batches no larger than
    the others. The state is not donated. Under another jit give it arrays.
    """
    return _epoch(recipe, state, data if isinstance(data, Examples) else examples_of(data))


@functools.partial(jax.jit, static_argnums=0)
def _epoch(recipe, state, examples):
    if state.is_stacked:
        return jax.vmap(lambda member: _epoch(recipe, member, examples))(state)

    def step(state, indices, recipe=recipe):
        x, targets, weights = take(recipe, state, examples, indices)
        state, metrics = update(recipe, state, x, targets, weights=weights)
        return state, metrics["loss"]

    order, size = epoch_order(state, count(examples)), recipe.batch_size
    full = len(order) - len(order) % size
    state, losses = lax.scan(step, state, order[:full].reshape(-1, size))
    if left := len(order) - full:
        state, last = step(state, order[full:], recipe.for_last_batch(left))
        losses = jnp.append(losses, last)
    return state, losses


def fit(
    model: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    data: Data,
    *,
    epochs: int = 10,
    batch_size: int = 128,
    validation: Data | None = None,
    key: PRNGKeyArray | None = None,
    state: TrainState | None = None,
    micro_batches: int = 1,
    augment: Augment | None = None,
    edits: Edits | None = None,
    penalties: Mapping[str, Any] | None = None,
    on_epoch: Callable[[TrainState, dict[str, Any]], Any] | None = None,
    progress: bool = True,
) -> tuple[TrainState, History]:
    """Trains on data in memory, and shows how it goes.

    Args:
        model: any layer.
        loss: any loss. Its reduction holds for each step.
        optimizer: any optax optimizer.
        data: (inputs, targets) or (inputs, targets, weights): arrays or trees of arrays, examples first.
        epochs: passes over the data.
        batch_size: examples a step; the last step of an epoch takes what is left.
        validation: data to be measured after each epoch.
        key: where all randomness of a fresh state comes from; jax.random.key(0) unless given.
        state: continue from here instead of from fresh parameters, with this state's key. It is not donated. That of an
            ensemble trains all members at once.
        micro_batches, edits, penalties: see `make_train_step`.
        augment: a pure function applied to each batch on its way in: (key, inputs) -> inputs or, if it has a third
            parameter, (key, inputs, targets) -> (inputs, targets).
        on_epoch: called after each epoch with the state and that epoch's numbers.
        progress: whether to show a progress bar.

    Returns:
        The trained state, and the history: "loss" (the mean over the epoch's steps, each counted by its examples),
        "seconds", "validation_loss" and so on, with one number per epoch each. Of an ensemble it is a list of numbers
        per epoch, one for each member ("seconds" excepted).

    Raises:
        Diverged: the loss is not finite; it names the step and the layer.
    """
    recipe = Recipe(model, loss, optimizer, batch_size, micro_batches, augment, edits, penalties)
    examples = examples_of(data)
    if state is None:
        one = jax.tree.map(lambda a: a[:1], examples.x)
        state = TrainState.create(model, optimizer, one, jax.random.key(0) if key is None else key)
    require_alive(state=state)
    params = first_member(state.params) if state.is_stacked else state.params
    require_data(model, loss, params, examples)
    if validation is not None:
        validation = examples_of(validation)
        require_data(model, loss, params, validation)

    plan, history = Plan(model, loss, min(batch_size, 1000), recipe.penalties), {}
    bar = tqdm(range(epochs), desc="training", unit="epoch", disable=not progress)
    for _ in bar:
        before, start = state, time.perf_counter()
        state, losses = _epoch(recipe, before, examples)
        losses = np.asarray(losses)
        if not np.isfinite(losses).all():
            raise _explained(recipe, before, examples, losses)
        metrics = {"loss": _epoch_mean(losses, batch_size, count(examples)), "seconds": time.perf_counter() - start}
        if validation is not None:
            measured = measure(plan, state.params, validation, state.is_stacked)
            metrics |= {f"validation_{name}": value for name, value in measured.items()}
        for name, value in metrics.items():
            history.setdefault(name, []).append(value)
        bar.set_postfix({name: f"{np.mean(value):.4f}" for name, value in metrics.items() if name != "seconds"})
        if on_epoch is not None:
            on_epoch(state, metrics)
    return state, history


def _epoch_mean(losses: np.ndarray, batch_size: int, examples: int) -> float | list[float]:
    """The mean over examples; the last step may have fewer."""
    sizes = np.full(losses.shape[-1], batch_size)
    sizes[-1] = examples - batch_size * (len(sizes) - 1)
    return np.average(losses, axis=-1, weights=sizes).tolist()


def _explained(recipe: Recipe, state: TrainState, examples: Examples, losses: np.ndarray) -> Diverged:
    """Runs the epoch again up to its first bad step, to see which layer it was."""
    if state.is_stacked:
        worst = int(np.argmax(~np.isfinite(losses).all(-1)))
        state, losses = jax.tree.map(lambda a: a[worst], state), losses[worst]
    bad = int(np.argmin(np.isfinite(losses)))
    order, size = epoch_order(state, count(examples)), recipe.batch_size
    step, previous = jax.jit(functools.partial(update, recipe)), None
    for i in range(bad + 1):
        x, targets, weights = take(recipe, state, examples, order[i * size : (i + 1) * size])
        now = Moment(state.params, x, targets, step_key(state), weights)
        if i == bad:
            return explain(recipe, int(state.step), float(losses[bad]), now, previous)
        previous = now
        state, _ = step(state, x, targets, None, weights)
    raise AssertionError("the bad step lies within the epoch")
