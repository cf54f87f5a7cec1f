"""Figures of `experiments.spoken_digits`: what was said when, and what the networks see and hear."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.shared.plots import BLUE, GREY, INK, ORANGE, SIGNED
from experiments.spoken_digits.connected import JOINED, Look
from experiments.spoken_digits.features import LogMel, mel

COLORS = ["#f6e05e", "#63b3ed", "#f687b3", "#68d391", "#fc8181", "#b794f4", "#76e4f7", "#f6ad55", "#d6bcfa", "#fefcbf"]
PITCHES = (100, 300, 600, 1000, 2000, 3500)  # Hz, marked along the axis


def alignment(seen: Look, front: LogMel) -> Figure:
    """The occupancy γ drawn over the spectrogram, and under it what the network believes without being told."""
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.4])
    said = " ".join(map(str, seen.digits))
    figure.suptitle(f"“{said}”: the posterior of the alignment over the spectrogram", color=INK)
    draw_spectrogram(above, seen.frames, front)
    over = above.twinx()
    times = moments(len(seen.occupancy), front)
    draw_posteriors(over, times, seen.occupancy, seen.digits, linewidth=2.2)
    over.set_ylabel("occupancy γ")
    draw_posteriors(below, times, seen.probabilities, seen.digits, linewidth=1.6)
    below.plot(times, seen.probabilities[:, 0], color=GREY, linewidth=1, linestyle=":", label="blank")
    below.set(xlabel="seconds", ylabel="network's output")
    below.set_facecolor(INK)
    below.legend(frameon=False, labelcolor="white", fontsize=8, loc="lower right")
    return figure


def gradient_through_time(seen: Look, front: LogMel) -> Figure:
    """From where the logit of one digit comes: its gradient at the spectrogram, and at each time of each direction."""
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[2, 2, 1.8])
    said = " ".join(map(str, seen.digits))
    figure.suptitle(f"“{said}”: what makes it a {seen.digit}, followed back through time", color=INK)
    draw_spectrogram(top, seen.frames, front)
    reach = np.abs(seen.saliency).max()
    draw_spectrogram(middle, seen.saliency, front, cmap=SIGNED, vmin=-reach, vmax=reach)
    middle.set_title("gradient of its logit: more energy speaks for it (orange) or against it (blue)", fontsize=9)
    times = moments(len(seen.occupancy), front)
    for (name, sizes), color in zip(seen.deltas.items(), (BLUE, ORANGE), strict=True):
        bottom.plot(times, np.where(sizes > 0, sizes, np.nan) / sizes.max(), color=color, label=name, linewidth=1.8)
    bottom.set(xlabel="seconds", ylabel="size of δ", yscale="log")
    bottom.grid(color=GREY, alpha=0.3)
    bottom.spines[["top", "right"]].set_visible(False)
    bottom.legend(frameon=False, loc="upper left")
    for axes in (top, middle, bottom):
        axes.axvline(times[seen.moment], color=INK if axes is not top else "white", linewidth=1, linestyle="--")
    return figure


def spectrograms(
    plain: Float[np.ndarray, "n frames filters"],
    changed: Float[np.ndarray, "n frames filters"],
    digits: Sequence[int],
    front: LogMel,
) -> Figure:
    """Recordings as the network sees them in the test, and under each how training shows it."""
    half = -(-len(plain) // 2)
    figure = Figure(figsize=(2 * half, 6.4), layout="constrained")
    figure.suptitle("Spoken digits, and each as training shows it: another speed, microphone and noise, and masks")
    grid = figure.subplots(4, half, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, (before, after, digit) in enumerate(zip(plain, changed, digits, strict=True)):
        row, column = 2 * (i // half), i % half
        for axes, frames in ((grid[row, column], before), (grid[row + 1, column], after)):
            draw_spectrogram(axes, frames, front)
        grid[row, column].set_title(str(digit), fontsize=10)
    return figure


def errors_by_speaker(rates: Mapping[str, float]) -> Figure:
    """How much is misheard of each speaker whom training never heard."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    names = sorted(rates, key=rates.get)
    labels = [f"{name}   {100 * rates[name]:.1f} %" for name in names]
    axes.barh(labels, [100 * rates[name] for name in names], color=BLUE, height=0.65)
    mean = 100 * float(np.mean(list(rates.values())))
    axes.axvline(mean, color=ORANGE, linestyle="--", linewidth=1.4)
    axes.set_title(f"Never heard before: {mean:.1f} % misheard on average", color=INK)
    axes.set(xlabel="misheard digits (%)")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def draw_spectrogram(axes: Axes, frames: Float[np.ndarray, "frames filters"], front: LogMel, **style) -> None:
    """Time in seconds to the right, pitch upwards."""
    style = {"cmap": "magma"} | style
    end = len(frames) * front.hop
    axes.imshow(frames.T, origin="lower", aspect="auto", extent=(0, end, 0, frames.shape[1]), **style)
    low, high = mel(front.low), mel(front.high or front.rate / 2)
    places = [(mel(pitch) - low) / (high - low) * (front.filters + 1) - 0.5 for pitch in PITCHES]
    axes.set_yticks(places, [f"{pitch:,}" for pitch in PITCHES])
    axes.set_ylim(0, frames.shape[1])
    axes.set_ylabel("Hz")


def draw_posteriors(axes: Axes, times, posteriors: Float[np.ndarray, "t 11"], digits: Sequence[int], linewidth) -> None:
    """One curve for each digit that was said, with its name above each of its hills higher than a quarter."""
    for digit in sorted(set(digits)):
        track = posteriors[:, digit + 1]
        axes.plot(times, track, color=COLORS[digit], linewidth=linewidth)
        edges = np.flatnonzero(np.diff(track > 0.25, prepend=False, append=False))
        for start, end in edges.reshape(-1, 2):
            peak = times[start + np.argmax(track[start:end])]
            axes.annotate(str(digit), (peak, 1.03), color="white", ha="center", fontsize=12, fontweight="bold")
    axes.set_ylim(0, 1.18)
    axes.set_yticks([0, 0.5, 1])
    axes.spines[["top", "right"]].set_visible(False)


def moments(inputs: int, front: LogMel) -> np.ndarray:
    """The middle of each input, in seconds."""
    return (np.arange(inputs) + 0.5) * JOINED * front.hop
