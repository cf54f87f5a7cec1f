"""Augmentation of speech: each recording drawn its own change, anew in every epoch.

    speed    y[t] = x(r t), log r uniform: faster and higher, or slower and lower, as if somebody else spoke
    tilt     y[t] = x[t] + c x[t-1]: darker where c > 0, brighter where c < 0
    noise    y = x + σ n, n from bright to dark, σ from x's own power and a random signal-to-noise ratio
    masks    some stretches of time and some bands of frequency are set to the mean (0 after normalisation)

Sources: Ko et al., Audio Augmentation for Speech Recognition (2015), for the speed; Park et al., SpecAugment (2019),
arXiv 1904.08779, for the masks.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, PRNGKeyArray
from scipy.fft import next_fast_len
from scipy.signal import resample

Samples = Float32[np.ndarray, " n"]


def speed(rng: np.random.Generator, samples: Samples, most: float = 1.2) -> Float32[np.ndarray, " m"]:
    """The recording faster or slower by up to a factor of `most`, band-limited."""
    silence = next_fast_len(len(samples), real=True) - len(samples)
    whole = len(samples) + silence
    faster = resample(
        np.pad(samples, (0, silence)), next_fast_len(round(whole * most ** rng.uniform(-1, 1)), real=True)
    )
    return faster[: round(len(samples) * len(faster) / whole)].astype(np.float32)


def noise(rng: np.random.Generator, samples: Samples, quietest: float = 50.0, loudest: float = 10.0) -> Samples:
    """The recording with noise, at a signal-to-noise ratio from `loudest` to `quietest` dB."""
    white = rng.standard_normal(len(samples) + 1, dtype=np.float32)
    c = rng.uniform(-0.5, 1.0)  # white[t] + c white[t-1] has the power 1 + c²; bright where c < 0, dark where c > 0
    coloured = (white[1:] + c * white[:-1]) / np.sqrt(1 + c * c)
    level = np.sqrt(np.mean(samples**2)) * 10 ** (-rng.uniform(loudest, quietest) / 20)
    return (samples + level * coloured).astype(np.float32)


def tilt(rng: np.random.Generator, samples: Samples, most: float = 0.7) -> Samples:
    """The recording brighter or darker, as another microphone would have it."""
    c = np.float32(rng.uniform(-most, most))
    return np.concatenate([samples[:1], samples[1:] + c * samples[:-1]])


def changed(rng: np.random.Generator, samples: Samples) -> Float32[np.ndarray, " m"]:
    """Another speed, another microphone, another room."""
    return noise(rng, tilt(rng, speed(rng, samples)))


@partial(jax.jit, static_argnames=("times", "longest", "bands", "widest"))
def masks(
    key: PRNGKeyArray,
    features: Float[Array, "n frames filters"],
    times: int = 2,
    longest: int = 12,
    bands: int = 2,
    widest: int = 6,
) -> Float[Array, "n frames filters"]:
    """`times` stretches of up to `longest` frames and `bands` bands of up to `widest` filters set to 0."""
    n, frames, filters = features.shape
    time, band = jax.random.split(key)
    lost_times = holes(time, n, frames, times, longest)
    lost_bands = holes(band, n, filters, bands, widest)
    return jnp.where(lost_times[:, :, None] | lost_bands[:, None, :], 0.0, features)


def holes(key: PRNGKeyArray, n: int, length: int, count: int, widest: int):
    """Where `count` random stretches lie on each of n lines, [n, length]; each is 0 to `widest` wide."""
    where, width = jax.random.split(key)
    widths = jax.random.randint(width, (n, count, 1), 0, widest + 1)
    starts = jax.random.randint(where, (n, count, 1), 0, length - widths + 1)
    places = jnp.arange(length)
    return jnp.any((starts <= places) & (places < starts + widths), axis=1)
