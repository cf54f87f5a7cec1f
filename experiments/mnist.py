"""MNIST, 28x28 handwritten digits: multilayer perceptrons trained by the hand-written backward pass.

The presets were chosen by their accuracy on a part of the training set (`--validation 10000` trains without the last
10,000 examples and measures on them). A run as it stands trains on all 60,000 and looks at the test set once, at the end.
"""

import enum
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import jaxbp
from experiments.data import load_mnist
from experiments.figures import filters
from experiments.output import command_line, save_figure, save_results
from experiments.training import adamw, draw_results, predict, train


@dataclass(frozen=True)
class Preset:
    """A network and how it is trained.

    learning_rate: the peak; see `experiments.training.adamw`.
    weight_decay: in units of the learning rate.
    smoothing: of the labels.
    """

    model: jaxbp.Layer
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    smoothing: float = 0.0


def hidden(units: int) -> jaxbp.Layer:
    """A dense layer with relu, and the initial weights that suit it."""
    return jaxbp.Serial(jaxbp.Dense(units, initializer=jaxbp.He()), jaxbp.Relu())


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
    epochs=60,
    batch_size=128,
    learning_rate=1e-3,
    weight_decay=0.3,
)


class Choice(enum.Enum):
    """The presets by the names they have on the command line."""

    classic = CLASSIC
    wide = WIDE


@dataclass(frozen=True)
class Options:
    """What to train, and where it departs from the preset."""

    preset: Choice = Choice.classic
    """classic: 784-100-10. wide: 784-800-800-10 with relu and dropout."""
    epochs: int | None = None
    """How often every training example is seen; the preset's unless given."""
    seed: int = 0
    """Of the initial weights, the order of the examples and the dropout."""
    examples: int | None = None
    """Take only so many of the training examples, and of the test examples."""
    validation: int = 0
    """Hold so many of the training examples out and measure on them instead of the test set: to choose presets by."""
    output: Path = Path("results/mnist")
    """The folder for the figures and results.json."""


def main(options: Options | None = None) -> dict:
    """Trains, tests, draws; returns the metrics."""
    options = options or Options()
    preset, started = options.preset.value, time.perf_counter()
    epochs = preset.epochs if options.epochs is None else options.epochs
    training, test = load_mnist()
    training, test = (tuple(array[: options.examples] for array in part) for part in (training, test))
