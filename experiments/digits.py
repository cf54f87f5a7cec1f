"""The main job: prove the backward pass right, then train with it on scikit-learn's 8x8 handwritten digits.

1,797 digits come with scikit-learn, nothing is downloaded. A quarter is held out and looked at once, at the end; a
tenth of the rest draws the validation curves.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxbp
from experiments.shared.command_line import command_line, save_results
from experiments.shared.image_training import adamw, draw_results, predict, train

MODEL = jaxbp.Serial(
    jaxbp.Flatten(),
    jaxbp.Dense(256, initializer=jaxbp.He()),
    jaxbp.ReLU(),
    jaxbp.Dropout(0.3),
    jaxbp.Dense(256, initializer=jaxbp.He()),
    jaxbp.ReLU(),
    jaxbp.Dropout(0.3),
    jaxbp.Dense(10),
)
LOSS = jaxbp.SoftmaxCrossEntropy(smoothing=0.1)


@dataclass(frozen=True)
class Options:
    """How to train."""

    epochs: int = 60
    """How often every training example is seen."""
    batch_size: int = 32
    """Examples a step."""
    learning_rate: float = 3e-3
    """The peak of the learning rate."""
    weight_decay: float = 0.1
    """How far weights shrink, in units of the learning rate."""
    seed: int = 0
    """Of the initial weights, the order of the examples and the dropout."""
    split_seed: int = 0
    """Of the choice of the held-out quarter."""
    examples: int | None = None
    """Take only so many of the training examples."""
    output: Path = Path("results/digits")
    """The folder for the figures and results.json."""


def load(split_seed: int):
    """(training, validation, test), each images [n, 8, 8, 1] from 0 to 1 and labels [n]."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[..., None]
    labels = digits.target.astype(np.int32)

    def split(images, labels, share):
        x, held_out_x, t, held_out_t = train_test_split(
            images, labels, test_size=share, stratify=labels, random_state=split_seed
        )
        return (x, t), (held_out_x, held_out_t)

    rest, test = split(images, labels, 0.25)
    return *split(*rest, 0.1), test


def main(options: Options | None = None) -> dict:
    """Checks, trains, tests, draws; returns the metrics."""
    options = options or Options()
    started = time.perf_counter()
    training, validation, test = load(options.split_seed)
    training = tuple(array[: options.examples] for array in training)
    print(f"{jaxbp.summary(MODEL, training[0][:1])}\n")

    few = tuple(array[:16] for array in training)
    params = MODEL.init(jax.random.key(options.seed), few[0])
    report = jaxbp.check_gradients(MODEL, LOSS, params, *few)
    print(f"The hand-written backward pass against jax.grad, in float64:\n\n{report}\n")
    if not report.ok:
        raise RuntimeError("the backward pass is wrong, see the table: nothing was trained")

    steps = options.epochs * -(-len(training[0]) // options.batch_size)
    optimizer = adamw(options.learning_rate, options.weight_decay, steps)
    trained = train(
        MODEL,
        LOSS,
        optimizer,
        training,
        validation,
        epochs=options.epochs,
        batch_size=options.batch_size,
        seed=options.seed,
    )
    probabilities = predict(MODEL, trained.params, test[0])
    accuracy = float((probabilities.argmax(-1) == test[1]).mean())
    print(f"\nTest accuracy: {accuracy:.4f} on {len(test[1])} digits never seen before")

    draw_results(options.output, trained, "8x8 digits", test, probabilities)
    metrics = {
        "test_accuracy": accuracy,
        "validation_accuracy": trained.history["validation_accuracy"][-1],
        "largest_gradient_error": float(report.worst),
        "epochs": options.epochs,
        "seed": options.seed,
        "split_seed": options.split_seed,
        "seconds": round(time.perf_counter() - started, 2),
        "history": trained.history,
    }
    path = save_results(options.output, metrics)
    print(f"Figures and numbers are in {path.parent}; it took {metrics['seconds']:.0f} seconds.")
    return metrics


if __name__ == "__main__":
    command_line(main, Options)
