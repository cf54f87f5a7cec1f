"""What K-FAC, Adam and SGD are compared on: two tasks on MNIST, and for each the optimizers' settings."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import optax
from jaxtyping import Array

import jaxbp

INVERSE_EVERY = 10  # steps between K-FAC's inversions
Setting = dict[str, float]


def adam(model: jaxbp.Layer, steps: int, learning_rate: float) -> optax.GradientTransformation:
    """Adam."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))


def sgd(model: jaxbp.Layer, steps: int, learning_rate: float, momentum: float) -> optax.GradientTransformation:
    """SGD with momentum."""
    return optax.sgd(optax.cosine_decay_schedule(learning_rate, steps), momentum)


def natural(model: jaxbp.Layer, steps: int, damping: float, last_damping: float) -> optax.GradientTransformation:
    """K-FAC without a learning rate, its damping from one value to the other."""
    schedule = optax.exponential_decay(damping, steps, last_damping / damping)
    return jaxbp.kfac(model, None, schedule, inverse_every=INVERSE_EVERY)


OPTIMIZERS = {"SGD": sgd, "Adam": adam, "K-FAC": natural}


def grid(**values: tuple[float, ...]) -> list[Setting]:
    """Every combination."""
    return [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]


@dataclass(frozen=True)
class Task:
    """What is learned, in batches of how many; the settings tried for each optimizer, and the one to take.

    targets: what a batch's images [n, 28, 28, 1] and labels [n] are to become.
    """

    model: jaxbp.Layer
    loss: jaxbp.Loss
    targets: Callable[[Array, Array], Array]
    batch_size: int
    steps: int
    grids: dict[str, list[Setting]]
    settings: dict[str, Setting]


def layers(*sizes: int, linear: tuple[int, ...] = ()) -> jaxbp.Serial:
    """Dense layers with tanh between them, but behind those of a size in `linear`."""
    stages: list[jaxbp.Layer] = [jaxbp.Flatten()]
    for size in sizes[:-1]:
        stages += [jaxbp.Dense(size)] if size in linear else [jaxbp.Dense(size), jaxbp.Tanh()]
    return jaxbp.Serial(*stages, jaxbp.Dense(sizes[-1]))


AUTOENCODER = Task(
    layers(1000, 500, 250, 30, 250, 500, 1000, 784, linear=(30,)),
    jaxbp.BinaryCrossEntropy(),
    lambda images, labels: images.reshape(len(images), -1),
    batch_size=500,
    steps=1000,
    grids={
        "SGD": grid(learning_rate=(3e-4, 1e-3, 3e-3), momentum=(0.9, 0.98)),
        "Adam": grid(learning_rate=(3e-4, 6e-4, 1e-3, 2e-3, 3e-3, 5e-3)),
        "K-FAC": grid(damping=(1.0, 3.0, 10.0), last_damping=(0.03, 0.3)),
    },
    settings={
        "SGD": {"learning_rate": 3e-3, "momentum": 0.9},
        "Adam": {"learning_rate": 1e-3},
        "K-FAC": {"damping": 1.0, "last_damping": 0.03},
    },
)
CLASSIFIER = Task(
    layers(300, 100, 10),
    jaxbp.SoftmaxCrossEntropy(),
    lambda images, labels: labels,
    batch_size=500,
    steps=600,
    grids={
        "SGD": grid(learning_rate=(0.03, 0.1, 0.3), momentum=(0.9, 0.98)),
        "Adam": grid(learning_rate=(6e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2)),
        "K-FAC": grid(damping=(0.1, 0.3, 1.0), last_damping=(0.003, 0.03)),
    },
    settings={  # guesses in the middle of the grids, not tuned yet
        "SGD": {"learning_rate": 0.1, "momentum": 0.9},
        "Adam": {"learning_rate": 3e-3},
        "K-FAC": {"damping": 0.3, "last_damping": 0.03},
    },
)
