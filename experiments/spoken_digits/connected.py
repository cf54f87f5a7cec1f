"""Strings of digits: a bidirectional recurrent network on log-mel frames, and CTC, which needs no alignment.

Four frames of 10 ms make one input, so that the network takes a quarter of the steps. Classes are the blank, 0, and
digit d as d + 1. Training strings have up to four digits, as short ones train faster; what is tested has up to seven.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import jaxbp
from experiments.spoken_digits.augmentation import changed, masks
from experiments.spoken_digits.error_rates import error_rate, sentences
from experiments.spoken_digits.features import LogMel, normalised
from experiments.spoken_digits.recordings import RATE, Recordings, Samples, digit_strings, trimmed
from experiments.spoken_digits.training import Task, outputs_of

FRONT = LogMel(rate=RATE, filters=32)
JOINED = 4  # frames to an input
MODEL = jaxbp.Serial(
    jaxbp.MapValues(jaxbp.Conv(96, (3,), initializer=jaxbp.He())),
    jaxbp.MapValues(jaxbp.ReLU()),
    jaxbp.MapValues(jaxbp.Dropout(0.2)),
    jaxbp.Bidirectional(jaxbp.GRU(96)),
    jaxbp.MapValues(jaxbp.Dropout(0.2)),
    jaxbp.DropLengths(),
    jaxbp.Dense(11),
)
RECURRENT = "3"  # its place in the model
LOSS = jaxbp.CTC()


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


def heard(logits: np.ndarray, lengths: np.ndarray, beams: int = 8) -> list[list[int]]:
    """The most probable digits of each string."""
    best = jaxbp.beam_decode(jnp.asarray(logits), jnp.asarray(lengths), beams=beams)
    return [[label - 1 for label in labels] for labels in sentences(best.labels[:, 0], best.lengths[:, 0])]


def mistakes(logits: np.ndarray, targets: jaxbp.Transcripts) -> tuple[int, int]:
    """Insertions, deletions and substitutions in all strings, and how many digits were said."""
    said = [[label - 1 for label in labels] for labels in sentences(targets.labels, targets.label_lengths)]
    total = sum(map(len, said))
    return round(total * error_rate(heard(logits, targets.logit_lengths), said)), total


TASK = Task(FRONT, MODEL, LOSS, draw, plain, mistakes, epochs=40, batch_size=32)


def shapes() -> jaxbp.Params:
    """The parameters' shapes."""
    x = jaxbp.Sequences(jax.ShapeDtypeStruct((1, 4, JOINED * FRONT.filters), "float32"), np.ones(1, int))
    return jax.eval_shape(lambda: MODEL.init(jax.random.key(0), x))


def transcribe(params: jaxbp.Params, samples: Samples) -> list[int]:
    """The digits in a recording, without the silence around them."""
    if np.ptp(samples) == 0:  # a microphone that was off: no training recording is as silent
        return []
    inputs = joined(*features(*padded([trimmed(samples)])))
    return heard(outputs_of(MODEL, params, inputs), inputs.lengths)[0]


class Look(NamedTuple):
    """One string under the magnifying glass; T inputs of `JOINED` frames each.

    frames: the normalised log-mel energies [T * JOINED, filters].
    digits: what was said.
    probabilities: the network's, of blank and digits at each time [T, 11].
    occupancy: CTC's posterior of the same, given what was said [T, 11].
    digit, moment: a digit of the string, and the time that most probably says it: this logit is followed back.
    deltas: by direction, the size of that logit's gradient at each time's pre-activations [T].
    saliency: and at the frames, [T * JOINED, filters].
    """

    frames: np.ndarray
    digits: list[int]
    probabilities: np.ndarray
    occupancy: np.ndarray
    digit: int
    moment: int
    deltas: dict[str, np.ndarray]
    saliency: np.ndarray


def look(params: jaxbp.Params, x: jaxbp.Sequences, targets: jaxbp.Transcripts, i: int) -> Look:
    """String i: its alignment, and the deltas of the logit of its middle digit, at the time that says it."""
    count, length = int(targets.label_lengths[i]), int(x.lengths[i])
    inputs = jaxbp.Sequences(x.values[i : i + 1, :length], jnp.array([length]))
    target = jaxbp.Transcripts(targets.labels[i : i + 1], jnp.array([count]), inputs.lengths)
    logits, residuals = jax.jit(MODEL.forward)(params, inputs)
    digits = [int(label) - 1 for label in targets.labels[i, :count]]
    occupancy = np.asarray(jax.jit(LOSS.occupancy)(logits, target))[0]
    digit = digits[count // 2]
    moment = int(np.argmax(occupancy[:, digit + 1]))
    g = jnp.zeros_like(logits).at[0, moment, digit + 1].set(1.0)
    dx, deltas = jax.jit(partial(jaxbp.sweep, MODEL, visit=jaxbp.delta))(params, residuals, g)
    at = jaxbp.leaves(MODEL, deltas)
    directions = {"forward in time": "forward_in_time", "back in time": "back_in_time"}
    return Look(
        np.asarray(inputs.values).reshape(-1, FRONT.filters),
        digits,
        np.asarray(jax.nn.softmax(logits))[0],
        occupancy,
        digit,
        moment,
        {name: np.linalg.norm(at[f"{RECURRENT}.{path}.input"][0], axis=-1) for name, path in directions.items()},
        np.asarray(dx.values).reshape(-1, FRONT.filters),
    )
