"""Strings of digits: a bidirectional recurrent network on log-mel frames, and CTC, which needs no alignment.

Three frames of 10 ms make one input, so that the network takes a third of the steps. Classes are the blank, 0, and
digit d as d + 1. Training strings have up to four digits, as short ones train faster; what is tested has up to seven.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import jaxbp
from experiments.recordings import RATE, Recordings, Samples, digit_strings
from experiments.speech import LogMel, normalised
from experiments.speech_augment import changed, masks

FRONT = LogMel(rate=RATE, filters=32)
JOINED = 3  # frames to an input
UNITS = 64
LOSS = jaxbp.CTC()
MODEL = jaxbp.Serial(
    jaxbp.Bidirectional(jaxbp.GRU(UNITS)),
    jaxbp.OnValues(jaxbp.Dropout(0.2)),
    jaxbp.Bidirectional(jaxbp.GRU(UNITS)),
    jaxbp.OnValues(jaxbp.Dropout(0.2)),
    jaxbp.Values(),
    jaxbp.Dense(11),
)


def padded(samples: list[Samples], longest: float | None = None):
    """Recordings as one array, zeros behind, and their lengths; as long as the longest, or as `longest` (seconds)."""
    lengths = np.array([len(x) for x in samples])
    room = lengths.max() if longest is None else round(longest * RATE)
    return np.stack([np.pad(x, (0, room - len(x))) for x in samples]), lengths


@partial(jax.jit, static_argnames="batch_size")
def features(
    samples: Float[Array, "n samples"], lengths: Int[Array, " n"], batch_size: int = 50
) -> tuple[Float[Array, "n frames filters"], Int[Array, " n"]]:
    """Normalised log-mel frames, and how many there are of each recording."""
    frames = FRONT.frames(lengths)

    def one(recording):
        x, count = recording
        return normalised(FRONT(x)[None], count[None])[0]

    return jax.lax.map(one, (samples, frames), batch_size=batch_size), frames


def joined(frames: Float[Array, "n frames filters"], counts: Int[Array, " n"]) -> jaxbp.Sequences:
    """Each `JOINED` frames side by side; the last are filled up with zeros."""
    n, length, filters = frames.shape
    whole = jnp.pad(frames, ((0, 0), (0, -length % JOINED), (0, 0)))
    return jaxbp.Sequences(whole.reshape(n, -1, JOINED * filters), -(-counts // JOINED))


def transcripts(digits: list[list[int]], inputs: jaxbp.Sequences, most: int) -> jaxbp.Transcripts:
    """The digits as classes, for inputs of these lengths."""
    labels = np.zeros((len(digits), most), np.int32)
    for row, said in zip(labels, digits, strict=True):
        row[: len(said)] = np.array(said, int) + 1
    return jaxbp.Transcripts(labels, np.array([len(said) for said in digits], np.int32), inputs.lengths)


def draw(rng: np.random.Generator, recordings: Recordings, augment: bool, most: int = 4, longest: float = 3.6):
    """As many strings as make every recording heard about once, changed, and what they say."""
    count = max(1, round(len(recordings.samples) / (1 + most) * 2))
    # Said more slowly they must fit still.
    strings = digit_strings(rng, recordings, count, most, longest / 1.25, silent=0.05)
    samples = [changed(rng, x) for x in strings.samples] if augment else strings.samples
    frames, counts = features(*padded(samples, longest))
    if augment:
        frames = masks(jax.random.key(rng.integers(2**31)), frames, times=4, longest=9)
    inputs = joined(frames, counts)
    return inputs, transcripts(strings.digits, inputs, most)


def plain(rng: np.random.Generator, recordings: Recordings, n: int = 350):
    """Strings of 1 to 7 digits, as they are."""
    strings = digit_strings(rng, recordings, n)
    inputs = joined(*features(*padded(strings.samples)))
    return inputs, transcripts(strings.digits, inputs, 7)
