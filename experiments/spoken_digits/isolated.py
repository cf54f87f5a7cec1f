"""One digit at a time: a convolutional network on the log-mel spectrogram of a window of one second.

Pooling over frequency forgives a higher or lower voice, pooling over time where in the window the digit was said.
"""

from functools import partial

import jax
import numpy as np

import jaxbp
from experiments.spoken_digits.augmentation import masks, noise, speed, tilt
from experiments.spoken_digits.features import LogMel, normalised
from experiments.spoken_digits.recordings import RATE, Recordings, Samples, centred, windows
from experiments.spoken_digits.training import Task

FRONT = LogMel(rate=RATE, filters=32)


def block(features: int, window: int, stride: int = 1) -> jaxbp.Serial:
    """Convolution, batch normalisation, relu."""
    conv = jaxbp.Conv(features, (window, window), stride=stride, bias=False, initializer=jaxbp.He())
    return jaxbp.Serial(conv, jaxbp.BatchNorm(), jaxbp.ReLU())


MODEL = jaxbp.Serial(
    block(16, 5, stride=2),
    block(32, 3),
    jaxbp.MaxPool((2, 2)),
    block(64, 3),
    jaxbp.MaxPool((2, 2)),
    block(64, 3),
    jaxbp.GlobalAvgPool(),
    jaxbp.Dropout(0.3),
    jaxbp.Dense(10),
)


@partial(jax.jit, static_argnames="batch_size")
def features(samples, batch_size: int = 100):
    """Windows [n, samples] as pictures [n, frames, filters, 1]."""

    def one(x):
        log_mel = FRONT(x)
        return normalised(log_mel[None], np.array([len(log_mel)]))[0, ..., None]

    return jax.lax.map(one, samples, batch_size=batch_size)


def draw(rng: np.random.Generator, recordings: Recordings, augment: bool):
    """Every recording once, somewhere in its window and changed, and what it says."""
    labels = recordings.digits.astype(np.int32)
    if not augment:
        return features(windows(recordings)), labels
    changed = [noise(rng, placed(rng, tilt(rng, speed(rng, samples)))) for samples in recordings.samples]
    pictures = features(np.stack(changed))
    key = jax.random.key(rng.integers(2**31))
    return masks(key, pictures[..., 0])[..., None], labels


def placed(rng: np.random.Generator, samples: Samples, length: int = RATE, most: int = RATE // 10) -> Samples:
    """The samples in a window, up to `most` off its middle."""
    if len(samples) >= length:
        return centred(samples, length)
    start = np.clip((length - len(samples)) // 2 + rng.integers(-most, most + 1), 0, length - len(samples))
    return np.pad(samples, (start, length - len(samples) - start))


def plain(rng: np.random.Generator, recordings: Recordings):
    """Every recording in the middle of its window, as it is."""
    return draw(rng, recordings, augment=False)


def mistakes(logits: np.ndarray, labels: np.ndarray) -> tuple[int, int]:
    """How many digits were misheard, and of how many."""
    return int((logits.argmax(-1) != labels).sum()), len(labels)


TASK = Task(FRONT, MODEL, jaxbp.SoftmaxCrossEntropy(smoothing=0.1), draw, plain, mistakes, epochs=30, batch_size=64)
