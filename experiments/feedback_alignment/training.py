"""Training by any rule of credit assignment, with an eye on the way: errors by epoch, angles by step.

The angle is that between a layer's update and the one backpropagation would make of the same batch at the same
weights. Below 90 degrees a small step still goes downhill.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray
from tqdm.auto import tqdm

import jaxbp

Examples = tuple[Float[Array, "n 28 28 1"], Float[Array, "n 10"]]  # images, and labels one-hot


@dataclass(frozen=True)
class Method:
    """All that makes a step; hashable, so that it is compiled once.

    rules: rules by path, as pairs.
    from_zero: whether all weights begin at zero; random feedback breaks the symmetry between the units.
    """

    model: jaxbp.Layer
    loss: jaxbp.Loss
    rules: tuple[tuple[str, object], ...]
    optimizer: optax.GradientTransformation
    from_zero: bool = False


class Run(NamedTuple):
    """What one training leaves behind: errors in percent by epoch, angles in degrees by layer's path and step."""

    params: jaxbp.Params
    training_error: list[float]
    held_out_error: list[float]
    steps: list[int]
    angles: dict[str, list[float | None]]

    def measured(self) -> dict:
        """All but the parameters, by name."""
        return {name: value for name, value in self._asdict().items() if name != "params"}


def train(
    method: Method, data: Examples, held_out: Examples, *, epochs: int, batch_size: int, seed: int, watched: int = 1000
) -> Run:
    """Trains on whole batches, in an order drawn anew for each epoch.

    Args:
        method: what a step does.
        data, held_out: examples to learn from, and not to learn from.
        epochs, batch_size: how often every example is seen, and how many make a step.
        seed: of the weights, the feedback and the order of the examples.
        watched: how many examples of `data` the angles are taken on, after 1, 2, 4, 8… steps and after the last;
            training errors are measured on as many as there are in `held_out`.
    """
    if len(data[0]) < batch_size or epochs < 1:
        raise ValueError(f"expected one batch of {batch_size} and one epoch at least, got {len(data[0])} and {epochs}")
    key, order_key = jax.random.split(jax.random.key(seed))
    state, fixed = begin(method, key, data[0][:1])
    few, seen = (jax.tree.map(lambda a, n=n: a[:n], data) for n in (watched, len(held_out[0])))
    last = epochs * (len(data[0]) // batch_size)
    run = Run((), [], [], [], {})
    bar = tqdm(total=last, unit="step", mininterval=5)
    for step in range(1, last + 1):
        epoch, turn = divmod(step - 1, last // epochs)
        if turn == 0:
            order = jax.random.permutation(jax.random.fold_in(order_key, epoch), len(data[0]))
        indices = order[turn * batch_size : (turn + 1) * batch_size]
        rng = jax.random.fold_in(key, step)
        state = update(method, state, fixed, data, indices, rng)
        if step & (step - 1) == 0 or step == last:
            run.steps.append(step)
            for path, angle in update_angles(method, state[0], fixed, few, rng).items():
                run.angles.setdefault(path, []).append(None if np.isnan(angle) else round(float(angle), 1))
        if step % (last // epochs) == 0:
            run.training_error.append(error(method.model, state[0][0], seen))
            run.held_out_error.append(error(method.model, state[0][0], held_out))
            bar.set_postfix(held_out=f"{run.held_out_error[-1]:.2f} %", refresh=False)
        bar.update()
    bar.close()
    return run._replace(params=state[0][0])


def begin(method: Method, key: PRNGKeyArray, x):
    """The state ((params, learned), optimizer's), and the fixed feedback, which is as large as weights drawn for x."""
    key, feedback_key = jax.random.split(key)
    params = method.model.init(key, x)
    fixed, learned = jaxbp.init_feedback(method.model, dict(method.rules), feedback_key, params, x)
    trained = jax.tree.map(jnp.zeros_like, params) if method.from_zero else params, learned
    return (trained, method.optimizer.init(trained)), fixed


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def update(method: Method, state, fixed, data: Examples, indices: Int[Array, " b"], rng: PRNGKeyArray):
    """One step on the examples at `indices`."""
    trained, optimizer_state = state
    x, targets = jax.tree.map(lambda array: array[indices], data)
    gradient_of = jaxbp.feedback_value_and_grad(method.model, method.loss, dict(method.rules))
    _, gradient = gradient_of(trained, fixed, x, targets, rng)
    updates, optimizer_state = method.optimizer.update(gradient, optimizer_state, trained)
    return optax.apply_updates(trained, updates), optimizer_state


@partial(jax.jit, static_argnums=0)
def update_angles(method: Method, trained, fixed, data: Examples, rng: PRNGKeyArray) -> Mapping[str, Float[Array, ""]]:
    """Degrees by path, of the layers with weights."""
    angles = jaxbp.alignment_angles(method.model, method.loss, dict(method.rules))(trained, fixed, *data, rng)
    return {path: angle.update for path, angle in angles.items() if angle.update is not None}


def error(model: jaxbp.Layer, params: jaxbp.Params, data: Examples, batch_size: int = 1000) -> float:
    """Percent of the examples that are read wrongly."""
    wrong = sum(
        int(misread(model, params, *jax.tree.map(lambda a, i=i: a[i : i + batch_size], data)))
        for i in range(0, len(data[0]), batch_size)
    )
    return 100 * wrong / len(data[0])


@partial(jax.jit, static_argnums=0)
def misread(model, params, x, targets):
    """How many examples of a batch."""
    return jnp.sum(model.forward(params, x)[0].argmax(-1) != targets.argmax(-1))
