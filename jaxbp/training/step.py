"""The training step: gradient, optimizer, new parameters, as one compiled function.

    g = ∂J/∂θ                        one sweep, or the sum of several over parts of the batch (micro-batches)
    u, s ← optimizer(g, s, θ)        any optax optimizer
    θ ← θ + u                        running statistics excepted: those are renewed by the layers

A state whose arrays all have an axis in front is an ensemble: all its members take the step at once, on the same batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxbp.backprop import run
from jaxbp.core.composite import output_of
from jaxbp.core.errors import require_alive
from jaxbp.core.layer import Layer, Params
from jaxbp.core.numerics import accumulation_dtype, is_concrete
from jaxbp.core.paths import from_leaves, leaves, leaves_of
from jaxbp.core.sweep import Edits, param_gradient
from jaxbp.losses.base import Loss
from jaxbp.training.recipe import Recipe


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
        cls, model: Layer, optimizer: optax.GradientTransformation, x: PyTree, key: PRNGKeyArray
    ) -> "TrainState":
        """A fresh state for inputs like x (arrays or ShapeDtypeStructs, [n, ...])."""
        params_key, key = jax.random.split(key)
        params = model.init(params_key, x)
        return cls(params, optimizer.init(params), jnp.zeros((), jnp.int32), key)

    @classmethod
    def create_ensemble(
        cls, model: Layer, optimizer: optax.GradientTransformation, x: PyTree, key: PRNGKeyArray, members: int
    ) -> "TrainState":
        """Fresh states of several models that differ in their keys, stacked: every array has [members] in front.

        `fit`, `train_epoch` and `make_train_step` take it as any state; jax.tree.map(lambda a: a[i], state) is that of
        member i.
        """
        if members < 1:
            raise ValueError(f"an ensemble needs at least one member, not {members}")
        return jax.vmap(lambda key: cls.create(model, optimizer, x, key))(jax.random.split(key, members))

    @property
    def is_stacked(self) -> bool:
        """Whether this is an ensemble."""
        return jnp.ndim(self.step) > 0


def make_train_step(
    model: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    micro_batches: int = 1,
    *,
    edits: Edits | None = None,
    penalties: Mapping[str, Any] | None = None,
    donate: bool = True,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """A compiled training step.

    Args:
        model: any layer; hashable, as frozen dataclasses are.
        loss: any loss.
        optimizer: any optax optimizer.
        micro_batches: how many equal parts the batch is cut into, to be run one after the other and their gradients
            added (gradient accumulation): the same gradient in less memory. Batch normalisation sees each part alone.
        edits, penalties: by path, as in `value_and_grad`.
        donate: whether the step may use the memory of the state it is given. If so, that state's arrays are gone
            afterwards, also where something else (a target network) holds them.

    Returns:
        A function (state, x, targets, rng=None, weights=None) -> (state, {"loss": …}); of an ensemble one loss for each
        member. Without `rng` the key is derived from the state's; `weights` is one number per example, or per label.
    """
    recipe = Recipe(model, loss, optimizer, micro_batches=micro_batches, edits=edits, penalties=penalties)
    compiled = _donating if donate else _keeping

    def step(state: TrainState, x, targets, rng=None, weights=None):
        require_alive(state=state, x=x, targets=targets)
        if donate:
            require_unshared(state, (x, targets, rng, weights))
        return compiled(recipe, state, x, targets, rng, weights)

    return step


def update(
    recipe: Recipe,
    state: TrainState,
    x: PyTree,
    targets: PyTree,
    rng: PRNGKeyArray | None = None,
    weights: PyTree = None,
) -> tuple[TrainState, dict[str, Array]]:
    """The step of `make_train_step` as a pure function, for use under another jit, scan or vmap."""
    if state.is_stacked:
        return jax.vmap(lambda member: update(recipe, member, x, targets, rng, weights))(state)
    rng = step_key(state) if rng is None else rng
    value, gradient, refreshed = accumulated_gradient(recipe, state.params, x, targets, rng, weights)
    updates, optimizer_state = recipe.optimizer.update(gradient, state.optimizer_state, state.params)
    params = with_statistics(recipe.model, optax.apply_updates(state.params, updates), refreshed)
    return TrainState(params, optimizer_state, state.step + 1, state.key), {"loss": value}


_donating = jax.jit(update, static_argnums=0, donate_argnums=1)
_keeping = jax.jit(update, static_argnums=0)


def accumulated_gradient(
    recipe: Recipe, params: Params, x: PyTree, targets: PyTree, rng: PRNGKeyArray | None, weights: PyTree = None
) -> tuple[Array, Params, Params]:
    """Returns the loss, its gradient, and the parameters with renewed statistics."""
    model, loss, parts = recipe.model, recipe.loss, recipe.micro_batches

    def gradient_of(params, x, targets, rng, weights, total=None):
        forward = run(model, loss, params, x, targets, rng, weights, total, dict(recipe.penalties))
        return forward, (forward.value, forward.sweep(param_gradient, edits=dict(recipe.edits))[1])

    if parts == 1:
        forward, (value, gradient) = gradient_of(params, x, targets, rng, weights)
        return value, gradient, forward.refresh(params)

    # Each part is divided by the weight of the whole batch, so that the parts' means add up to the batch's mean.
    total = loss.total(output_of(model, params, x), targets, weights)

    def add_part(carry, batch):
        refreshed, sums = carry
        forward, new = gradient_of(params, *batch, total)
        sums = jax.tree.map(lambda a, b: a + b.astype(a.dtype), sums, new)
        return (forward.refresh(refreshed), sums), None

    batches = *cut((x, targets), parts), jax.random.split(rng, parts), cut(weights, parts)
    zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(total)))
    zeros = zero, jax.tree.map(lambda p: jnp.zeros(p.shape, accumulation_dtype(p)), params)
    (refreshed, (value, gradient)), _ = lax.scan(add_part, (params, zeros), batches)
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
    new, known = leaves(model, params), leaves(model, refreshed)
    for path, layer in leaves_of(model).items():
        if layer.statistics:
            new[path] = new[path] | {name: known[path][name] for name in layer.statistics}
    return from_leaves(model, new)


def step_key(state: TrainState) -> PRNGKeyArray:
    """The key of the next step's masks."""
    return jax.random.fold_in(jax.random.fold_in(state.key, 0), state.step)


def require_unshared(state: TrainState, others: PyTree) -> None:
    """Raises if an array of a state that is to be donated is in it twice, or among the step's other arguments."""
    own, rest = (
        [a for a in jax.tree.leaves(tree) if isinstance(a, jax.Array) and is_concrete(a)] for tree in (state, others)
    )
    if len(set(map(id, own))) == len(own) and not set(map(id, own)) & set(map(id, rest)):
        return
    seen: dict[int, str] = {}
    named = [
        *((f"state{jax.tree_util.keystr(key)}", a) for key, a in jax.tree_util.tree_leaves_with_path(state)),
        *(("an argument of the step", a) for a in rest),
    ]
    for name, array in named:
        if id(array) in seen:
            raise ValueError(
                f"{seen[id(array)]} and {name} are one array, whose memory can't be donated to a step that also reads "
                "it elsewhere; copy one of them with jnp.copy, or use make_train_step(..., donate=False)"
            )
        if name.startswith("state"):
            seen[id(array)] = name
