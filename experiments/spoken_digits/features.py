"""Speech features: log-mel filterbanks and MFCC, as compiled functions of the samples.

Let x be samples at R Hz, cut into frames t of N samples, one every H samples (25 and 10 ms), w Hann's window, and K the
power of 2 not below N. Let F hold M triangles, evenly spaced and equally wide in mel(f) = 1127 ln(1 + f / 700):

    P[t,k] = |Σ_n w[n] x[tH + n] exp(-2πi kn / K)|²        power at k R / K Hz
    L[t,m] = ln max(Σ_k F[k,m] P[t,k], ε)                   log-mel filterbank: the ear's resolution, and its loudness
    C[t,j] = Σ_m D[m,j] L[t,m]                              MFCC; D is the orthonormal cosine transform (DCT-II)

Frames that reach beyond the last sample are left out. Definitions as in Kaldi (without its dither, pre-emphasis and
lifter), after Davis & Mermelstein, IEEE Transactions on Acoustics, Speech, and Signal Processing 28 (1980).
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.fft import dct
from jaxtyping import Array, Float, Int


@dataclass(frozen=True)
class LogMel:
    """Maps samples [..., n] to log-mel energies [..., frames, filters].

    Args:
        rate: R, samples a second.
        window: seconds a frame covers.
        hop: seconds from one frame to the next.
        filters: M, how many triangles.
        low, high: Hz where the first triangle begins and the last ends; `high` is R / 2 unless given.
        floor: ε, which the logarithm needs where there is silence.
    """

    rate: int = 8000
    window: float = 0.025
    hop: float = 0.010
    filters: int = 40
    low: float = 60.0
    high: float | None = None
    floor: float = 1e-10

    @property
    def length(self) -> int:
        """N, samples a frame."""
        return round(self.window * self.rate)

    @property
    def step(self) -> int:
        """H, samples from one frame to the next."""
        return round(self.hop * self.rate)

    def frames(self, samples):
        """How many frames lie within so many samples; a number, or an array of them."""
        return (samples >= self.length) * (1 + (samples - self.length) // self.step)

    @partial(jax.jit, static_argnums=0)
    def __call__(self, samples: Float[Array, "*batch n"]) -> Float[Array, "*batch frames filters"]:
        """L[t,m]."""
        count = self.frames(samples.shape[-1])
        if count == 0:
            raise ValueError(f"a frame takes {self.length} samples, got only {samples.shape[-1]}")
        frames = samples[..., self.step * np.arange(count)[:, None] + np.arange(self.length)]
        size = 1 << (self.length - 1).bit_length()
        power = jnp.abs(jnp.fft.rfft(frames * jnp.hanning(self.length), size)) ** 2
        return jnp.log(jnp.maximum(power @ self.triangles(size), self.floor))

    def triangles(self, size: int) -> Float[np.ndarray, "bins filters"]:
        """F[k,m]: filter m rises from corner m to 1 at corner m + 1, and falls to 0 at corner m + 2."""
        corners = np.linspace(mel(self.low), mel(self.high or self.rate / 2), self.filters + 2)
        bins = mel(np.arange(size // 2 + 1) * self.rate / size)[:, None]
        rise = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
        fall = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
        return np.maximum(0, np.minimum(rise, fall))


def mel(hertz):
    """Pitch as it is heard, in mel; 1,000 Hz is 1,000 mel."""
    return 1127 * np.log1p(hertz / 700)


@partial(jax.jit, static_argnames="coefficients")
def mfcc(log_mel: Float[Array, "*batch filters"], coefficients: int = 13) -> Float[Array, "*batch coefficients"]:
    """C[t,j] for the first `coefficients` j: the shape of the spectrum, without its fine detail."""
    return dct(log_mel, norm="ortho")[..., :coefficients]


@partial(jax.jit, static_argnames="reach")
def normalised(
    log_mel: Float[Array, "n frames filters"], frames: Int[Array, " n"], reach: float = 12.0
) -> Float[Array, "n frames filters"]:
    """Each recording with mean 0 and variance 1, whoever speaks and however loud; 0 after its last frame.

    A variance below 1 stays: noise alone, the same all the time, is not to be blown up until it looks like speech.
    What lies more than `reach` (in ln of power: 12 is 52 dB) below the loudest is lifted to there: differences in
    near-silence say nothing of the word, and much of the room.
    """
    inside = (jnp.arange(log_mel.shape[1]) < frames[:, None])[..., None]
    loudest = jnp.max(log_mel, axis=(1, 2), keepdims=True, where=inside, initial=-jnp.inf)
    lifted = jnp.maximum(log_mel, loudest - reach)
    mean = jnp.mean(lifted, axis=(1, 2), keepdims=True, where=inside)
    deviation = jnp.std(lifted, axis=(1, 2), keepdims=True, where=inside)
    return jnp.where(inside, (lifted - mean) / jnp.maximum(deviation, 1.0), 0.0)
