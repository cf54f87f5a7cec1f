"""The loop around the step: epochs over arrays in memory, each one compiled scan, and evaluation."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree
from tqdm.auto import tqdm

from jaxbp.backprop import require_examples, require_parts
from jaxbp.combinators import output_of
from jaxbp.core.layer import Layer, Params
from jaxbp.losses.base import Loss
from jaxbp.training.divergence import Diverged, explain
from jaxbp.training.step import TrainState, step_key, update

Batch = tuple[PyTree, PyTree]  # inputs and targets, examples first
Augment = Callable[[PRNGKeyArray, PyTree], PyTree]  # (key, inputs) -> inputs of the same shapes
History = dict[str, list[float]]  # one number per epoch


def epoch_order(state: TrainState, examples: int) -> Int[Array, " n"]:
    """The order in which the coming epoch takes the examples."""
    return jax.random.permutation(jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step), examples)


def take(data: Batch, indices: Int[Array, " b"], augment: Augment | None, state: TrainState) -> Batch:
    """The examples at `indices`, augmented."""
    x, targets = jax.tree.map(lambda array: array[indices], data)
    if augment is not None:
        x = augment(jax.random.fold_in(jax.random.fold_in(state.key, 2), state.step), x)
    return x, targets


@functools.partial(jax.jit, static_argnums=range(6))
def train_epoch(
    model: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    micro_batches: int,
    augment: Augment | None,
    state: TrainState,
    data: Batch,
) -> tuple[TrainState, Float[Array, " steps"]]:
    """Every example once, in random order, as one compiled scan; returns the new state and the steps' losses.

    The examples left over from the last full batch make a smaller step of their own, in micro-batches no larger than
    the others.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, not {batch_size}")

    def turn(state, indices, parts=micro_batches):
        state, metrics = update(model, loss, optimizer, parts, state, *take(data, indices, augment, state))
        return state, metrics["loss"]

    order = epoch_order(state, len(jax.tree.leaves(data)[0]))
    full = len(order) - len(order) % batch_size
    state, losses = lax.scan(turn, state, order[:full].reshape(-1, batch_size))
    if left := len(order) - full:
        state, last = turn(state, order[full:], parts_of(left, batch_size, micro_batches))
        losses = jnp.append(losses, last)
    return state, losses


def parts_of(left: int, batch_size: int, micro_batches: int) -> int:
    """Into how many equal micro-batches to cut what is left over, for none to be larger than the others."""
    largest = max(1, batch_size // micro_batches)
    return next(n for n in range(1, left + 1) if left % n == 0 and left // n <= largest)


@functools.partial(jax.jit, static_argnums=range(3))
def _evaluate(model, loss, batch_size, params, data):
    def sums(batch):
        x, targets = batch
        outputs, _ = model.forward(params, x)
        measures = {"loss": loss.per_example(outputs, targets)[0], **loss.metrics(outputs, targets)}
        weights = loss.weigh(outputs, targets)
        return jax.tree.map(lambda m: jnp.sum(weights * m), measures), jnp.sum(weights)

    examples = len(jax.tree.leaves(data)[0])
    full = examples - examples % batch_size
    parts = []
    if full:
        batches = jax.tree.map(lambda a: a[:full].reshape(-1, batch_size, *a.shape[1:]), data)
        parts.append(jax.tree.map(jnp.sum, lax.map(sums, batches)))
    if full < examples:
        parts.append(sums(jax.tree.map(lambda a: a[full:], data)))
    totals, weight = jax.tree.map(lambda *terms: sum(terms), *parts)
    return jax.tree.map(lambda total: total / weight, totals)


def evaluate(
    model: Layer, loss: Loss, params: Params, x: PyTree, targets: PyTree, batch_size: int = 1000
) -> dict[str, float]:
    """Mean loss, and what the loss measures beside it ("accuracy"), over all examples, without dropout."""
    require_data(model, loss, params, (x, targets))
    return {
        name: float(value)
        for name, value in _evaluate(model, loss, batch_size, params, jax.tree.map(jnp.asarray, (x, targets))).items()
    }


def require_data(model: Layer, loss: Loss, params: Params, data: Batch) -> None:
    """Refuses data that model and loss can't work with, before anything runs."""
    x, targets = data
    require_examples(x)
    counts = {len(array) for array in jax.tree.leaves((x, targets))}
    if len(counts) > 1:
        raise ValueError(f"inputs and targets must be equally many, got {sorted(counts)}")
    loss.require(output_of(model, params, x), targets)


def fit(
    model: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    data: Batch,
    *,
    epochs: int = 10,
    batch_size: int = 128,
    validation: Batch | None = None,
    key: PRNGKeyArray | None = None,
    state: TrainState | None = None,
    micro_batches: int = 1,
    augment: Augment | None = None,
    on_epoch: Callable[[TrainState, dict[str, float]], Any] | None = None,
    progress: bool = True,
) -> tuple[TrainState, History]:
    """Trains on arrays in memory, and shows how it goes.

    Args:
        model: any layer.
        loss: any loss.
        optimizer: any optax optimizer.
        data: (inputs, targets), arrays or trees of arrays, examples first.
        epochs: how often every example is taken.
        batch_size: examples a step; the last step of an epoch takes what is left.
        validation: (inputs, targets) to be measured after each epoch.
        key: where all randomness comes from; jax.random.key(0) unless given.
        state: continue from here instead of from fresh parameters.
        micro_batches: see `make_train_step`.
        augment: a pure function (key, inputs) -> inputs, applied to each batch on its way in.
        on_epoch: called after each epoch with the state and that epoch's numbers.
        progress: whether to show a progress bar.

    Returns:
        The trained state, and the history: "loss" (the epoch's mean), "seconds", "validation_loss" and so on, one
        number per epoch each.

    Raises:
        Diverged: the loss is not finite; it names the step and the layer.
    """
    require_parts(model, loss)
    for name, number in {"batch_size": batch_size, "micro_batches": micro_batches}.items():
        if number < 1:
            raise ValueError(f"{name} must be positive, not {number}")
    key = jax.random.key(0) if key is None else key
    data = jax.tree.map(jnp.asarray, data)
    require_examples(data[0])
    if state is None:
        state = TrainState.create(model, optimizer, jax.tree.map(lambda a: a[:1], data[0]), key)
    require_data(model, loss, state.params, data)
    if validation is not None:
        validation = jax.tree.map(jnp.asarray, validation)
        require_data(model, loss, state.params, validation)

    history: History = {}
    bar = tqdm(range(epochs), desc="training", unit="epoch", disable=not progress)
    for _ in bar:
        before, start = state, time.perf_counter()
        state, losses = train_epoch(model, loss, optimizer, batch_size, micro_batches, augment, before, data)
        losses = np.asarray(losses)
        if not np.isfinite(losses).all():
            raise _explained(model, loss, optimizer, batch_size, micro_batches, augment, before, data, losses)
        metrics = {"loss": _epoch_mean(losses, batch_size, data), "seconds": time.perf_counter() - start}
        if validation is not None:
            measured = _evaluate(model, loss, min(batch_size, 1000), state.params, validation)
            metrics |= {f"validation_{name}": float(value) for name, value in measured.items()}
        for name, value in metrics.items():
            history.setdefault(name, []).append(value)
        bar.set_postfix({name: f"{value:.4f}" for name, value in metrics.items() if name != "seconds"})
        if on_epoch is not None:
            on_epoch(state, metrics)
    return state, history


def _epoch_mean(losses, batch_size, data) -> float:
    """The mean over examples; the last step may have fewer."""
    examples = len(jax.tree.leaves(data)[0])
    sizes = np.full(len(losses), batch_size)
    sizes[-1] = examples - batch_size * (len(losses) - 1)
    return float(np.average(losses, weights=sizes))


def _explained(model, loss, optimizer, batch_size, micro_batches, augment, state, data, losses) -> Diverged:
    """Runs the epoch again up to its first bad step, to see which layer it was."""
    bad = int(np.argmin(np.isfinite(losses)))
    order = epoch_order(state, len(jax.tree.leaves(data)[0]))
    step = jax.jit(functools.partial(update, model, loss, optimizer, micro_batches))
    previous = None
    for i in range(bad + 1):
        x, targets = take(data, order[i * batch_size : (i + 1) * batch_size], augment, state)
        now = (state.params, x, targets, step_key(state))
        if i == bad:
            return explain(model, loss, int(state.step), float(losses[bad]), now, previous)
        previous = now
        state, _ = step(state, x, targets)
    raise AssertionError("the bad step lies within the epoch")
