"""Training: a state, and a compiled step.

    g = ∂J/∂θ on a batch             backpropagate
    u, s ← optimizer(g, s, θ)        any optax optimizer
    θ ← θ + u                        running statistics excepted: those are renewed by the layers

Everything compiled here is cached on (model, loss, optimizer): equal models compile once.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxbp.backprop import backpropagate, require_parts
from jaxbp.combinators import output_of
from jaxbp.core.layer import ArrayLike, Layer, Params
from jaxbp.core.paths import part
from jaxbp.core.sweep import param_gradient
from jaxbp.losses.base import Loss, wide


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a training step changes, as a pytree.

    params: the model's parameters.
    optimizer_state: optax's.
    step: how many updates have been made.
    key: what all random numbers of the training are drawn from, together with `step`; it stays the same.
    """

    params: Params
    optimizer_state: PyTree
    step: PyTree  # an array in use; while JAX takes the tree apart, whatever stands for one
    key: PyTree

    @classmethod
    def create(
        cls, model: Layer, optimizer: optax.GradientTransformation, x: ArrayLike, key: PRNGKeyArray
    ) -> "TrainState":
        """A fresh state for inputs like x (an array or a ShapeDtypeStruct, [n, ...])."""
        params_key, key = jax.random.split(key)
        params = model.init(params_key, x)
        return cls(params, optimizer.init(params), jnp.zeros((), jnp.int32), key)


def make_train_step(
    model: Layer, loss: Loss, optimizer: optax.GradientTransformation, micro_batches: int = 1
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """A compiled training step.

    Args:
        model: any layer; hashable, as frozen dataclasses are.
        loss: any loss.
        optimizer: any optax optimizer.
        micro_batches: how many equal parts the batch is cut into, to be run one after the other and their gradients
            added (gradient accumulation): the same gradient in less memory.

    Returns:
        A function (state, x, targets, rng=None, weights=None) -> (state, {"loss": …}). It donates the state: use the
        one it returns. Without `rng` the key is derived from the state's; `weights` is one number per example.
    """
    require_parts(model, loss)
    if micro_batches < 1:
        raise ValueError(f"micro_batches must be positive, not {micro_batches}")

    def step(state: TrainState, x, targets, rng=None, weights=None):
        return _step(model, loss, optimizer, micro_batches, state, x, targets, rng, weights)

    return step


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def _step(model, loss, optimizer, micro_batches, state, x, targets, rng, weights):
    return update(model, loss, optimizer, micro_batches, state, x, targets, rng, weights)


def update(model, loss, optimizer, micro_batches, state, x, targets, rng=None, weights=None):
    """The step of `make_train_step` as a pure function, for use under another jit, scan or vmap."""
    rng = step_key(state) if rng is None else rng
    value, gradient, refreshed = accumulated_gradient(
        model, loss, micro_batches, state.params, x, targets, rng, weights
    )
    updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
    params = with_statistics(model, optax.apply_updates(state.params, updates), refreshed)
    return TrainState(params, optimizer_state, state.step + 1, state.key), {"loss": value}


def accumulated_gradient(model, loss, micro_batches, params, x, targets, rng, weights):
    """Returns the loss, its gradient, and the parameters with renewed statistics."""
    if micro_batches == 1:
        value, gradient, residuals = backpropagate(model, loss, params, x, targets, rng, weights, visit=param_gradient)
        return value, gradient, model.refresh(params, residuals)

    # Each part is divided by the weight of the whole batch, so that the parts' means add up to the batch's mean.
    total = jnp.sum(loss.weigh(output_of(model, params, x), targets, weights))

    def turn(carry, batch):
        refreshed, sums = carry
        value, gradient, residuals = backpropagate(model, loss, params, *batch, total=total, visit=param_gradient)
        sums = jax.tree.map(lambda a, b: a + b.astype(a.dtype), sums, (value, gradient))
        return (model.refresh(refreshed, residuals), sums), None

    batches = (*cut((x, targets), micro_batches), jax.random.split(rng, micro_batches), cut(weights, micro_batches))
    zeros = jnp.zeros((), total.dtype), jax.tree.map(lambda p: jnp.zeros(p.shape, wide(p)), params)
    (refreshed, (value, gradient)), _ = lax.scan(turn, (params, zeros), batches)
    return value, jax.tree.map(lambda a, p: a.astype(p.dtype), gradient, params), refreshed


def cut(tree: PyTree, parts: int) -> PyTree:
    """Arrays [n, ...] as [parts, n / parts, ...]."""

    def one(array):
        if array.shape[0] % parts:
            raise ValueError(f"a batch of {array.shape[0]} examples can't be cut into {parts} equal micro-batches")
        return array.reshape(parts, array.shape[0] // parts, *array.shape[1:])

    return jax.tree.map(one, tree)


def with_statistics(model: Layer, params: Params, refreshed: Params) -> Params:
    """`params`, with the running statistics of `refreshed`."""
    if model.children:
        return model.collect(
            {
                name: with_statistics(child, part(params, name), part(refreshed, name))
                for name, child in model.children.items()
            }
        )
    return {**params, **{name: refreshed[name] for name in model.statistics}} if model.statistics else params


def step_key(state: TrainState) -> PRNGKeyArray:
    """The key of the next step's masks."""
    return jax.random.fold_in(jax.random.fold_in(state.key, 0), state.step)
