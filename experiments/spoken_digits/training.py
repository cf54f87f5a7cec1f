"""Training on recordings that are changed anew in every epoch, and the rate of mistakes on recordings that aren't."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree
from tqdm.auto import tqdm

import jaxbp
from experiments.shared.image_training import adamw
from experiments.spoken_digits.features import LogMel
from experiments.spoken_digits.recordings import Recordings


@dataclass(frozen=True)
class Task:
    """What is to be heard, and how that is learned.

    front: makes log-mel energies of samples.
    model, loss: maps inputs to outputs, and what it costs.
    draw: (rng, recordings, augment) -> (inputs, targets), an epoch's examples.
    plain: (rng, recordings) -> (inputs, targets), examples to be tested on.
    mistakes: (outputs, targets) -> how many digits were misheard, and of how many.
    epochs, batch_size, learning_rate, weight_decay: of the training, by AdamW.
    """

    front: LogMel
    model: jaxbp.Layer
    loss: jaxbp.Loss
    draw: Callable
    plain: Callable
    mistakes: Callable[[PyTree, PyTree], tuple[int, int]]
    epochs: int
    batch_size: int
    learning_rate: float = 3e-3
    weight_decay: float = 0.05

    @property
    def config(self) -> dict[str, Any]:
        """What trained weights belong to."""
        return {"front": asdict(self.front), "model": str(self.model)}


class Trained(NamedTuple):
    """Parameters, the loss by epoch, and how long it took."""

    params: jaxbp.Params
    losses: list[float]
    seconds: float


def train(task: Task, recordings: Recordings, *, epochs: int, seed: int, augment: bool, title: str) -> Trained:
    """Trains from fresh parameters; the same seed gives the same weights, order, changes and dropout."""
    started = time.perf_counter()
    rng, losses, state = np.random.default_rng(seed), [], None
    bar = tqdm(range(epochs), desc=title, unit="epoch")
    for _ in bar:
        data = task.draw(rng, recordings, augment)
        if state is None:
            steps = epochs * -(-len(jax.tree.leaves(data)[0]) // task.batch_size)
            optimizer = adamw(task.learning_rate, task.weight_decay, steps)
            first = jax.tree.map(lambda array: array[:1], data[0])
            state = jaxbp.TrainState.create(task.model, optimizer, first, jax.random.key(seed))
        state, history = jaxbp.fit(
            task.model, task.loss, optimizer, data, epochs=1, batch_size=task.batch_size, state=state, progress=False
        )
        losses += history["loss"]
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    return Trained(state.params, losses, time.perf_counter() - started)


def outputs_of(model: jaxbp.Layer, params: jaxbp.Params, x: PyTree, batch_size: int = 100) -> np.ndarray:
    """What the model makes of many examples, without dropout."""
    forward = jax.jit(lambda params, x: model.forward(params, x)[0])

    def part(start: int):
        return jax.tree.map(lambda array: array[start : start + batch_size], x)

    starts = range(0, len(jax.tree.leaves(x)[0]), batch_size)
    return np.concatenate([forward(params, part(start)) for start in starts])
