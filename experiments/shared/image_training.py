"""What the experiments on images share: train with the gradient's flow watched, then look at the mistakes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax

import jaxbp
from experiments.shared.command_line import save_figure
from experiments.shared.plots import confusion_matrix, learning_curves, misread_digits
from experiments.shared.weight_averaging import average_of, averaged

Examples = tuple[np.ndarray, np.ndarray]  # images [n, height, width, 1] and labels [n]


class Trained(NamedTuple):
    """What training leaves behind: parameters (the average, if there is one), numbers by epoch, and the layers' sizes
    after some of the epochs."""

    params: jaxbp.Params
    history: dict[str, list[float]]
    flow: dict[int, dict[str, dict[str, float]]]


def adamw(peak: float, weight_decay: float, steps: int) -> optax.GradientTransformation:
    """Adam with decoupled weight decay; the learning rate rises to `peak` in a twentieth of the steps, then falls."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak, max(1, steps // 20), max(2, steps))
    return optax.adamw(schedule, weight_decay=weight_decay)


def train(
    model: jaxbp.Layer,
    loss: jaxbp.Loss,
    optimizer: optax.GradientTransformation,
    data: Examples,
    validation: Examples | None,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    augment: Callable | None = None,
    averaging: float = 0.0,
    watched: int = 256,
    moments: int = 8,
) -> Trained:
    """`jaxbp.fit`, with the sizes of activations, deltas and gradients measured at some moments of the training.

    Args:
        model, loss, optimizer, data, validation, epochs, batch_size, augment: as in `jaxbp.fit`.
        seed: of the initial parameters, the order of the examples and the dropout.
        averaging: the decay of the weights' moving average; 0 keeps none. With one, the history has also the
            average's own validation, "averaged_loss" and "averaged_accuracy".
        watched: on how many examples the sizes are measured.
        moments: how often, beside before the first epoch.
    """
    start, key = jax.random.split(jax.random.key(seed))
    optimizer = averaged(optimizer, averaging) if averaging else optimizer
    few = jax.tree.map(lambda array: array[:watched], data)
    state = jaxbp.TrainState.create(model, optimizer, data[0][:1], start)
    flow, measured = {}, {}

    def watch(state, metrics=None):
        epoch = int(state.step) // -(-len(data[0]) // batch_size)
        if epoch % -(-epochs // moments) == 0 or epoch == epochs:
            flow[epoch] = jaxbp.signal_sizes(model, loss, state.params, *few)
        if averaging and validation is not None and epoch:
            average = average_of(model, state)
            for name, value in jaxbp.evaluate(model, loss, average, *validation, min(batch_size, 1000)).items():
                measured.setdefault(f"averaged_{name}", []).append(value)

    watch(state)
    state, history = jaxbp.fit(
        model,
        loss,
        optimizer,
        data,
        epochs=epochs,
        batch_size=batch_size,
        validation=validation,
        key=key,
        state=state,
        augment=augment,
        on_epoch=watch,
    )
    return Trained(average_of(model, state) if averaging else state.params, history | measured, flow)


def predict(model: jaxbp.Layer, params: jaxbp.Params, x: np.ndarray, batch_size: int = 1000) -> np.ndarray:
    """Probabilities [n, classes] of a model that returns logits."""
    forward = jax.jit(lambda params, x: jax.nn.softmax(model.forward(params, x)[0]))
    return np.concatenate([forward(params, x[i : i + batch_size]) for i in range(0, len(x), batch_size)])


def draw_results(
    folder: Path, trained: Trained, title: str, test: Examples, probabilities: np.ndarray
) -> Sequence[Path]:
    """Learning curves, gradient flow, confusion matrix and misread digits, each as a picture in `folder`."""
    images, labels = test
    figures = {
        "learning_curves": learning_curves(trained.history, title),
        "gradient_flow": jaxbp.plot_flow(list(trained.flow.values()), [f"epoch {epoch}" for epoch in trained.flow]),
        "confusion_matrix": confusion_matrix(labels, probabilities.argmax(-1)),
        "misread_digits": misread_digits(images[..., 0], labels, probabilities),
    }
    return [save_figure(folder, name, figure) for name, figure in figures.items()]
