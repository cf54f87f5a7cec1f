"""Augmentation of speech: pure functions of a key, each recording drawn its own change.

    speed    y[t] = x(r t), log r uniform: faster and higher, or slower and lower, as if somebody else spoke
    noise    y = x + σ n, n white or brownish, σ from the recording's own power and a random signal-to-noise ratio
    masks    some stretches of time and some bands of frequency are set to the mean (0 after normalisation)

x(r t) falls between samples: it is read from its neighbours by band-limited interpolation, a sinc under Hann's window,
whose cutoff goes down with 1 / r so that nothing is folded back from above half the rate.

Sources: Ko et al., Audio Augmentation for Speech Recognition (2015), for the speed; Park et al., SpecAugment (2019),
arXiv 1904.08779, for the masks; Smith & Gossett, A Flexible Sampling-Rate Conversion Method (1984).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


def resampled(samples: Float[Array, " n"], places: Float[Array, " m"], cutoff, reach: int = 6) -> Float[Array, " m"]:
    """x at places between its samples; cutoff ≤ 1 in units of half the rate."""
    base = jnp.floor(places).astype(jnp.int32)
    neighbours = base[:, None] + jnp.arange(1 - reach, reach + 1)
    distance = places[:, None] - neighbours
    weight = cutoff * jnp.sinc(cutoff * distance) * jnp.cos(jnp.pi * distance / (2 * reach)) ** 2
    there = (neighbours >= 0) & (neighbours < len(samples))
    return jnp.sum(jnp.where(there, weight * jnp.asarray(samples)[neighbours], 0), axis=-1)


@partial(jax.jit, static_argnames=("most", "centred"))
def speed(
    key: PRNGKeyArray, samples: Float[Array, "n samples"], lengths: Int[Array, " n"], most: float = 1.15, centred=False
) -> tuple[Float[Array, "n samples"], Int[Array, " n"]]:
    """Every recording faster or slower by up to a factor of `most`; samples and their new numbers.

    One that would become too long is cut. centred: the recordings lie in the middle of windows, and shall stay there.
    """
    count = samples.shape[1]
    rates = most ** jax.random.uniform(key, lengths.shape, minval=-1.0, maxval=1.0)
    middle = (count - 1) / 2 if centred else 0.0

    def one(x, rate):
        return resampled(x, middle + rate * (jnp.arange(count) - middle), jnp.minimum(1.0, 1 / rate))

    return jax.vmap(one)(samples, rates), jnp.minimum(count, (lengths / rates).astype(lengths.dtype))


@partial(jax.jit, static_argnames=("quietest", "loudest"))
def noise(
    key: PRNGKeyArray,
    samples: Float[Array, "n samples"],
    lengths: Int[Array, " n"],
    quietest: float = 50.0,
    loudest: float = 10.0,
) -> Float[Array, "n samples"]:
    """Noise of a signal-to-noise ratio between `loudest` and `quietest` dB, added up to each recording's length."""
    draw, ratio, colour = jax.random.split(key, 3)
    white = jax.random.normal(draw, samples.shape, samples.dtype)
    # x[t] + c x[t-1] has power 1 + c²: from bright (c < 0) to dark (c > 0).
    c = jax.random.uniform(colour, (len(lengths), 1), minval=-0.5, maxval=1.0)
    coloured = (white + c * jnp.roll(white, 1, axis=1)) / jnp.sqrt(1 + c * c)
    decibels = jax.random.uniform(ratio, (len(lengths), 1), minval=loudest, maxval=quietest)
    inside = jnp.arange(samples.shape[1]) < lengths[:, None]
    power = jnp.sum(samples**2, axis=1, keepdims=True) / jnp.maximum(lengths, 1)[:, None]
    return jnp.where(inside, samples + coloured * jnp.sqrt(power) * 10 ** (-decibels / 20), 0.0)


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
