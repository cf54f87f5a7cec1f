"""Figures of the experiments on text: words and characters on coloured ground, attention maps, curves."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from experiments.shared.plots import BLUE, COUNTS, GREY, INK, ORANGE, SIGNED

COLUMN, ROW = 0.088, 0.24  # inches that a character takes


def coloured(
    axes: Axes, pieces: Sequence[str], shades: Float[np.ndarray, " n"], cmap: Colormap, width: int, top: float = 0
) -> float:
    """Pieces of text one after the other on grounds of their own, in rows of `width` characters from row `top` on.

    shades: from 0 to 1, a piece. Returns the first row that is free.
    """
    column, row = 0, top
    for piece, shade in zip(pieces, shades, strict=True):
        shown = piece.replace("\n", "⏎")
        if column and column + len(shown.strip()) > width:
            column, row = 0, row + 1
        ground = cmap(float(shade))
        axes.add_patch(Rectangle((column, row), len(shown), 0.86, color=ground, linewidth=0))
        dark = np.dot(ground[:3], (0.3, 0.59, 0.11)) < 0.5
        color = "white" if dark else GREY if piece == "\n" else INK
        axes.text(column, row + 0.43, shown, family="monospace", fontsize=10, color=color, va="center")
        column += len(shown)
        if piece.endswith("\n"):
            column, row = 0, row + 1
    return row + 1


def sheet(rows: int, width: int, title: str) -> tuple[Figure, Axes]:
    """A page for `coloured`, in characters."""
    figure = Figure(figsize=(width * COLUMN + 0.6, rows * ROW + 0.8))
    axes = figure.add_axes(
        (
            0.3 / figure.get_figwidth(),
            0.15 / figure.get_figheight(),
            1 - 0.6 / figure.get_figwidth(),
            rows * ROW / figure.get_figheight(),
        )
    )
    axes.set(xlim=(0, width), ylim=(rows, 0))
    axes.set_axis_off()
    figure.suptitle(title, color=INK, fontsize=11, y=1 - 0.2 / figure.get_figheight(), va="top")
    return figure, axes


def surprise(text: str, losses: Float[np.ndarray, " n"], width: int = 72) -> Figure:
    """Each character on a ground that is the darker the less it was expected."""
    rows = sum(-(-max(1, len(line)) // width) for line in text.split("\n"))
    title = "Surprise at each character, given those before: -log p from 0 (white) to 5 nats (brown)"
    figure, axes = sheet(rows, width, title)
    coloured(axes, list(text), np.minimum(losses / 5, 1), COUNTS, width)
    return figure


def language_curves(history: Mapping[str, Sequence[float]], by_position: Float[np.ndarray, " t"]) -> Figure:
    """The loss by step, and that of the first, second, … character that the network sees."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, color in (("loss", BLUE), ("validation_loss", ORANGE)):
        label = {"loss": "training (mean since the last point)", "validation_loss": "validation"}[name]
        left.plot(history["step"], history[name], color=color, marker=".", label=label)
    left.set(xlabel="step", ylabel="nats a character")
    left.set_title(f"validation loss {history['validation_loss'][-1]:.3f} at the end", color=INK, fontsize=10)
    left.legend(frameon=False)
    right.plot(range(len(by_position)), by_position, color=ORANGE)
    right.set(xlabel="characters seen before", ylabel="validation loss", ylim=(0, None))
    right.set_title("the more it has read, the less it is surprised", color=INK, fontsize=10)
    for axes in (left, right):
        axes.grid(color=GREY, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def words_heat(
    sentences: Sequence[Sequence[str]],
    values: Sequence[Float[np.ndarray, " n"]],
    titles: Sequence[str],
    title: str,
    width: int = 96,
) -> Figure:
    """Sentences whose words lie on orange ground where they speak for, and on blue where against; each scaled alone."""
    pieces = [[f"{word} " for word in words] for words in sentences]
    trial = Figure().subplots()  # to count rows
    rows = sum(1.6 + coloured(trial, words, np.zeros(len(words)), SIGNED, width) for words in pieces)
    figure, axes = sheet(rows, width, title)
    row = 0
    for words, value, caption in zip(pieces, values, titles, strict=True):
        axes.text(0, row + 0.5, caption, fontsize=9, color="#4a5568", va="center")
        reach = max(float(np.abs(value).max()), 1e-30)
        row = coloured(axes, words, 0.5 + 0.5 * value / reach, SIGNED, width, row + 1) + 0.6
    return figure


def attention_maps(
    maps: Sequence[Float[np.ndarray, "heads t s"]], source: Sequence[str], target: Sequence[str]
) -> Figure:
    """Which source subword (column) each written subword (row) looks at: a picture a head, a row of them a block."""
    blocks, heads = len(maps), len(maps[0])
    cell = 0.2
    size = (heads * (cell * len(source) + 0.25) + 1.2, blocks * (cell * len(target) + 0.3) + 1.4)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle("What each written subword (row) looks at in the German sentence", color=INK)
    grid = figure.subplots(blocks, heads, squeeze=False, sharex=True, sharey=True)
    for b, h in np.ndindex(blocks, heads):
        axes = grid[b, h]
        axes.imshow(maps[b][h], cmap=COUNTS, vmin=0, vmax=1, aspect="equal")
        axes.set_title(f"block {b + 1}, head {h + 1}", fontsize=8, color=INK)
        axes.set_xticks(range(len(source)), source, rotation=90, fontsize=7)
        axes.set_yticks(range(len(target)), target, fontsize=7)
        axes.tick_params(length=0)
        axes.spines[:].set_color(GREY)
    return figure


def translation_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """The losses by epoch; the training's is that with dropout and smoothed labels."""
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, label, color in (
        ("loss", "training, with dropout and smoothed labels", BLUE),
        ("validation_loss", "validation, averaged weights", ORANGE),
    ):
        axes.plot(range(1, len(history[name]) + 1), history[name], color=color, marker=".", label=label)
    axes.set(xlabel="epoch", ylabel="nats a subword")
    minutes = history["seconds"][-1] / 60
    axes.set_title(f"{len(history['loss'])} epochs in {minutes:.0f} minutes", color=INK, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    axes.grid(color=GREY, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def accuracies(rows: Mapping[str, Sequence[float]]) -> Figure:
    """A row a classifier, a dot a run, a line at the mean."""
    figure = Figure(figsize=(7.5, 1.2 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, (name, each) in enumerate(reversed(rows.items())):
        color = ORANGE if "+" in name else BLUE if len(each) > 1 else "#4a5568"
        mean = 100 * float(np.mean(each))
        axes.plot([mean, mean], [place - 0.3, place + 0.3], color=color, linewidth=2.4)
        axes.plot([100 * value for value in each], [place] * len(each), "o", color=color, alpha=0.5, markersize=5)
        axes.annotate(f"{mean:.1f}", (mean, place + 0.32), color=color, ha="center", va="bottom", fontsize=8)
    axes.set_yticks(range(len(rows)), list(rows)[::-1])
    axes.set(xlabel="test sentences that are classified rightly (%)", ylim=(-0.6, len(rows) - 0.2))
    axes.grid(axis="x", color=GREY, alpha=0.3)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure
