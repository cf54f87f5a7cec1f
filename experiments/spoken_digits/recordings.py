"""Recordings of speech: the spoken digits, strings of them, a user's own file; mono, float32, 8,000 samples a second.

A string of digits is what one speaker might have said: recordings of that speaker, with pauses between them. The
pauses aren't empty: they hold the hiss of the quietest moment of the recording before, as the room would.
"""

import io
import re
from math import gcd
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float32, Int
from scipy.signal import resample_poly

from experiments.shared.datasets import DataError, load_spoken_digits

RATE = 8000
Samples = Float32[np.ndarray, " n"]


class Recordings(NamedTuple):
    """Single digits: samples, what was said, by whom, and the number of the take (0 to 49)."""

    samples: list[Samples]
    digits: Int[np.ndarray, " n"]
    speakers: np.ndarray
    takes: Int[np.ndarray, " n"]

    def chosen(self, which: np.ndarray) -> "Recordings":
        """Those where `which` is true, or at these places."""
        places = np.arange(len(self.digits))[which]
        return Recordings([self.samples[i] for i in places], self.digits[places], *(a[places] for a in self[2:]))


def spoken_digits() -> Recordings:
    """The 3,000 recordings of the Free Spoken Digit Dataset: six speakers, fifty takes of each digit."""
    files = load_spoken_digits()
    samples = [soundfile.read(io.BytesIO(content), dtype="float32")[0] for content in files.values()]
    digits, speakers, takes = zip(*(name.removesuffix(".wav").split("_") for name in files), strict=True)
    return Recordings(samples, np.array(digits, int), np.array(speakers), np.array(takes, int))


def windows(recordings: Recordings, length: int = RATE) -> Float32[np.ndarray, "n length"]:
    """Each recording in the middle of a window; of a longer one the loudest stretch of that length."""
    return np.stack([centred(samples, length) for samples in recordings.samples])


def centred(samples: Samples, length: int) -> Float32[np.ndarray, " length"]:
    """The samples in a window of that length, with silence around them, or the loudest stretch of them."""
    if len(samples) > length:
        energy = np.concatenate([[0.0], np.cumsum(samples**2, dtype=np.float64)])
        start = np.argmax(energy[length:] - energy[:-length])
        return samples[start : start + length]
    before = (length - len(samples)) // 2
    return np.pad(samples, (before, length - len(samples) - before))


class Strings(NamedTuple):
    """What was recorded, and the digits that were said, of each string."""

    samples: list[Samples]
    digits: list[list[int]]


def digit_strings(
    rng: np.random.Generator,
    recordings: Recordings,
    n: int,
    most: int = 7,
    longest: float = np.inf,
    silent: float = 0.0,
) -> Strings:
    """n strings of 1 to `most` digits, each number equally often, spoken by one speaker with pauses in between.

    Args:
        rng: draws speakers, takes and pauses; of a speaker every take is heard before one is heard again.
        recordings: the single digits to be joined.
        n: how many strings.
        most: digits in a string.
        longest: seconds; where the next digit has no room, the string ends.
        silent: the share of strings without a digit, which are a long pause.
    """
    strings = Strings([], [])
    own = {name: np.flatnonzero(recordings.speakers == name) for name in np.unique(recordings.speakers)}
    decks = {name: [] for name in own}
    for i in range(n):
        name = rng.choice(list(own))
        parts, digits = [pause(rng, recordings.samples[rng.choice(own[name])])], []
        for _ in range(0 if rng.random() < silent else 1 + i % most):
            if not decks[name]:
                decks[name] = list(rng.permutation(own[name]))
            said = recordings.samples[decks[name][-1]]
            after = pause(rng, said)
            if sum(map(len, parts)) + len(said) + len(after) > longest * RATE:
                break
            parts += [said, after]
            digits.append(int(recordings.digits[decks[name].pop()]))
        if not digits:
            parts += [pause(rng, parts[0], 0.2, 1.0)]
        strings.samples.append(np.concatenate(parts))
        strings.digits.append(digits)
    return strings


def pause(rng: np.random.Generator, before: Samples, shortest: float = 0.03, longest: float = 0.3) -> Samples:
    """The hiss of the quietest 10 ms of `before`, for a while (seconds)."""
    n = round(RATE * rng.uniform(shortest, longest))
    frames = before[: len(before) // 80 * 80].reshape(-1, 80)
    level = frames.std(axis=1).min() if len(frames) else 0.0
    return (level * rng.standard_normal(n)).astype(np.float32)


def read_recording(path: Path) -> tuple[Samples, float]:
    """A user's file, of any rate and number of channels, as one channel of 8,000 samples a second.

    Beside them stands which share of the file's own samples is clipped. Raises DataError, in one sentence, where there
    is no such file, where it is no audio, or where it is empty or cut off.
    """
    if not path.is_file():
        raise DataError(f"{path} can't be read: there is no such file.")
    try:
        with soundfile.SoundFile(path) as file:
            samples, rate = file.read(dtype="float32", always_2d=True), file.samplerate
            cut_off = len(samples) < file.frames or lacks_bytes(file.extra_info)
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path} can't be read as audio: {error.error_string}") from None
    if cut_off:
        raise DataError(f"{path} is cut off: its header announces more than the file holds; copy or record it again.")
    mono = samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise DataError(f"{path} holds samples that are no finite numbers: it is damaged.")
    divisor = gcd(RATE, rate)
    if len(mono) * RATE < 0.1 * RATE * rate:
        raise DataError(
            f"{path} is {'empty' if not len(mono) else 'shorter than 0.1 seconds'}: there is nothing to hear."
        )
    return resample_poly(mono, RATE // divisor, rate // divisor).astype(np.float32), clipped(samples.T.ravel())


def lacks_bytes(log: str) -> bool:
    """Whether libsndfile, which reads such a file all the same, noted in its log that a chunk is shorter than it says.

    A size near 2 or 4 GiB is what programs write that don't know it beforehand (a WAV file out of a pipe).
    """
    sizes = re.findall(r": (\d+) \(should be (\d+)\)", log)
    return any(int(there) < int(said) < 2_000_000_000 for said, there in sizes)


def trimmed(samples: Samples, below: float = 30.0, margin: float = 0.1) -> Samples:
    """The recording without what is more than `below` dB under its loudest 10 ms at the ends, but for a margin (s)."""
    power = np.mean(samples[: len(samples) // 80 * 80].reshape(-1, 80) ** 2, axis=1)
    loud = np.flatnonzero(power >= power.max() * 10 ** (-below / 10))
    around = round(margin * RATE)
    return samples[max(0, 80 * loud[0] - around) : 80 * (loud[-1] + 1) + around]


def clipped(samples: Samples) -> float:
    """The share of samples that are stuck at the loudest value: two or more in a row, as a recorder cuts peaks off."""
    loud = np.abs(samples) >= 0.999 * np.abs(samples).max(initial=1e-9)
    return float(np.mean(loud[1:] & loud[:-1])) if len(samples) > 1 else 0.0
