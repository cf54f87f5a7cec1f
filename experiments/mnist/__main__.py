"""MNIST, 28x28 handwritten digits: perceptrons and a convolutional network, trained by the hand-written backward pass.

Some of the 60,000 training examples are held out for the learning curves and for choosing presets; the 10,000 test
examples are looked at once, at the end.
"""

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np

import jaxbp
from experiments.mnist.augmentation import augment
from experiments.mnist.saliency import evidence, stages
from experiments.shared.command_line import command_line, save_figure, save_results
from experiments.shared.datasets import load_mnist
from experiments.shared.image_training import Examples, adamw, draw_results, predict, train
from experiments.shared.plots import augmentations, feature_maps, filters, saliency


@dataclass(frozen=True)
class Preset:
    """A network and how it is trained.

    learning_rate: the peak; see `experiments.training.adamw`.
    weight_decay: in units of the learning rate.
    smoothing: of the labels.
    augment: changes the training images on their way in; see `experiments.augment`.
    averaging: the decay of the weights' moving average, which is what is tested; 0 keeps none.
    validation: how many of the 60,000 training examples are held out.
    """

    model: jaxbp.Layer
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    smoothing: float = 0.0
    augment: Callable | None = None
    averaging: float = 0.0
    validation: int = 2000


def hidden(units: int) -> jaxbp.Layer:
    """A dense layer with relu, and the initial weights that suit it."""
    return jaxbp.Serial(jaxbp.Dense(units, initializer=jaxbp.He()), jaxbp.ReLU())


def halved(features: int, window: tuple[int, int], padding: str = "SAME") -> list[jaxbp.Layer]:
    """A convolution with batch normalisation and relu; the pooling comes first and leaves those a quarter of the work.

    Without a bias: the normalisation would take it off again.
    """
    convolution = jaxbp.Conv(features, window, padding=padding, bias=False, initializer=jaxbp.He())
    return [convolution, jaxbp.MaxPool((2, 2)), jaxbp.BatchNorm(), jaxbp.ReLU()]


CLASSIC = Preset(
    jaxbp.Serial(jaxbp.Flatten(), hidden(100), jaxbp.Dense(10)),
    epochs=20,
    batch_size=64,
    learning_rate=2e-3,
    weight_decay=0.1,
    smoothing=0.1,
)
WIDE = Preset(
    jaxbp.Serial(
        jaxbp.Flatten(),
        jaxbp.Dropout(0.2),
        hidden(800),
        jaxbp.Dropout(0.5),
        hidden(800),
        jaxbp.Dropout(0.5),
        jaxbp.Dense(10),
    ),
    epochs=80,
    batch_size=256,
    learning_rate=2e-3,
    weight_decay=0.1,
    validation=0,
)
ELASTIC = Preset(
    jaxbp.Serial(jaxbp.Flatten(), hidden(800), hidden(800), jaxbp.Dense(10)),
    epochs=40,
    batch_size=256,
    learning_rate=1e-3,
    weight_decay=0.1,
    smoothing=0.05,
    augment=partial(augment, shift=1.0),
    averaging=0.999,
)
CONVOLUTIONAL = Preset(
    jaxbp.Serial(
        *halved(32, (5, 5), "VALID"),
        *halved(64, (3, 3)),
        *halved(128, (3, 3)),
        jaxbp.Flatten(),
        jaxbp.Dense(256, bias=False, initializer=jaxbp.He()),
        jaxbp.BatchNorm(),
        jaxbp.ReLU(),
        jaxbp.Dense(10),
    ),
    epochs=10,
    batch_size=128,
    learning_rate=4e-3,
    weight_decay=0.02,
    smoothing=0.05,
    augment=partial(augment, shift=1.0, alpha=36.0, sigma=6.0),
    validation=5000,
)


class Choice(enum.Enum):
    """The presets by the names they have on the command line."""

    classic = CLASSIC
    wide = WIDE
    elastic = ELASTIC
    convolutional = CONVOLUTIONAL


@dataclass(frozen=True)
class Options:
    """What to train, and where it departs from the preset."""

    preset: Choice = Choice.classic
    """classic: 784-100-10. wide: 784-800-800-10 with relu and dropout. elastic: 784-800-800-10 on distorted images.
    convolutional: three convolutions with batch normalisation and pooling, on distorted images."""
    epochs: int | None = None
    """How often every training example is seen; the preset's unless given."""
    augment: bool = True
    """Whether to augment the training images, where the preset does."""
    seed: int = 0
    """Of the initial weights, the order of the examples and the dropout."""
    examples: int | None = None
    """Take only so many of the training examples, and of the test examples."""
    validation: int | None = None
    """Training examples, the last ones, that are held out for the learning curves; the preset's unless given."""
    output: Path = Path("results/mnist")
    """The folder for the figures and results.json."""


def main(options: Options | None = None) -> dict:
    """Trains, tests, draws; returns the metrics."""
    options = options or Options()
    preset, started = options.preset.value, time.perf_counter()
    epochs = preset.epochs if options.epochs is None else options.epochs
    everything, test = load_mnist()
    held_out = preset.validation if options.validation is None else options.validation
    kept = len(everything[0]) - held_out
    training = tuple(array[:kept][: options.examples] for array in everything)
    validation = tuple(array[kept:] for array in everything) if held_out else None
    test = tuple(array[: options.examples] for array in test)

    steps = epochs * -(-len(training[0]) // preset.batch_size)
    trained = train(
        preset.model,
        jaxbp.SoftmaxCrossEntropy(smoothing=preset.smoothing),
        adamw(preset.learning_rate, preset.weight_decay, steps),
        training,
        validation,
        epochs=epochs,
        batch_size=preset.batch_size,
        seed=options.seed,
        augment=preset.augment if options.augment else None,
        averaging=preset.averaging,
    )
    seconds = time.perf_counter() - started
    probabilities = predict(preset.model, trained.params, test[0])
    accuracy = float((probabilities.argmax(-1) == test[1]).mean())
    print(f"\nTest accuracy: {accuracy:.4f} on {len(test[1])} digits, after {epochs} epochs in {seconds:.0f} seconds")

    folder = options.output / options.preset.name
    draw_results(folder, trained, f"MNIST, preset {options.preset.name}", test, probabilities)
    draw_insight(folder, preset, trained.params, training, test, probabilities)
    metrics = {
        "test_accuracy": accuracy,
        "preset": options.preset.name,
        "augmented": options.augment and preset.augment is not None,
        "epochs": epochs,
        "seed": options.seed,
        "training_examples": len(training[1]),
        "seconds": round(seconds, 1),
        "history": trained.history,
    }
    print(f"Figures and numbers are in {save_results(folder, metrics).parent}")
    return metrics


def draw_insight(
    folder: Path, preset: Preset, params: jaxbp.Params, training: Examples, test: Examples, probabilities
) -> None:
    """What the network was shown, what it looks for, what it makes of a digit, and what speaks for and against it."""
    images, labels = test
    if preset.augment:
        originals = training[0][:6]
        drawn = [preset.augment(jax.random.key(i), originals)[..., 0] for i in range(9)]
        save_figure(folder, "augmentation", augmentations(originals[..., 0], np.stack(drawn)))

    weight = first_weight(preset.model, params)
    window = images.shape[1:3] if weight.ndim == 2 else weight.shape[:2]
    save_figure(folder, "filters", filters(weight.reshape(*window, -1)))

    maps = [np.asarray(stage) for stage in stages(preset.model, params, images[0])]
    if maps:
        save_figure(folder, "feature_maps", feature_maps(images[0, ..., 0], maps, probabilities[0]))

    read = probabilities.argmax(-1)
    right = np.concatenate([np.flatnonzero((labels == digit) & (read == digit))[:1] for digit in range(10)])
    wrong = np.flatnonzero(read != labels)
    wrong = wrong[np.argsort(-probabilities[wrong, read[wrong]])][:20]
    chosen = np.concatenate([right, wrong])
    captions = [f"{labels[i]}" if labels[i] == read[i] else f"{labels[i]}, read as {read[i]}" for i in chosen]
    gradients = evidence(preset.model, params, images[chosen], labels[chosen])
    save_figure(folder, "saliency", saliency(images[chosen, ..., 0], np.asarray(gradients), captions))


def first_weight(model: jaxbp.Layer, params: jaxbp.Params) -> np.ndarray:
    """The weight of the first layer that has one."""
    entries = jaxbp.leaves(model, params).values()
    return next(np.asarray(entry["weight"]) for entry in entries if isinstance(entry, dict) and "weight" in entry)


if __name__ == "__main__":
    command_line(main, Options)
