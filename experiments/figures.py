"""The experiments' figures: each function returns a matplotlib Figure and touches nothing global."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

BLUE, ORANGE, INK, GREY = "#2b6cb0", "#dd6b20", "#1a202c", "#a0aec0"
COUNTS = LinearSegmentedColormap.from_list("counts", ["#ffffff", "#fbd38d", ORANGE, "#7b341e"])
SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "#ffffff", ORANGE])


def learning_curves(history: Mapping[str, Sequence[float]], title: str = "Learning curves") -> Figure:
    """Loss and, where a validation was measured, error by epoch, from the history that `jaxbp.fit` returns."""
    validated = "validation_accuracy" in history
    figure = Figure(figsize=(9, 3.8) if validated else (5, 3.8), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    losses = {"training": "loss", "validation": "validation_loss"}
    draw_curves(panels[0], {name: history[key] for name, key in losses.items() if key in history}, "loss")
    if validated:
        errors = [100 * (1 - accuracy) for accuracy in history["validation_accuracy"]]
        label = f"validation, {errors[-1]:.2f} % at the end"
        draw_curves(panels[1], {label: errors}, "error (%)", colors=[ORANGE])
    return figure


def draw_curves(
    axes: Axes, curves: Mapping[str, Sequence[float]], ylabel: str, colors: Sequence[str] = (BLUE, ORANGE)
) -> None:
    """One line a curve, named in a legend, on a logarithmic scale if no value is zero."""
    for color, (name, values) in zip(colors, curves.items(), strict=False):
        axes.plot(range(1, len(values) + 1), values, color=color, label=name, linewidth=1.8, marker=".", markersize=4)
    if min(map(min, curves.values())) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8), numticks=20))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, None)
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.grid(color=GREY, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def confusion_matrix(labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], classes: int = 10) -> Figure:
    """How often each digit (row) was read as which (column); colour shows the mistakes alone."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predicted), 1)
    mistakes = counts * (1 - np.eye(classes, dtype=int))
    figure = Figure(figsize=(6.4, 6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(mistakes, cmap=COUNTS, vmin=0, vmax=max(1, mistakes.max()))
    figure.colorbar(image, ax=axes, label="misread", shrink=0.7, ticks=MaxNLocator(integer=True, nbins=6))
    for (row, column), count in np.ndenumerate(counts):
        if count:
            dark = mistakes[row, column] > 0.6 * mistakes.max()
            color = "#4a5568" if row == column else "white" if dark else INK
            axes.text(column, row, count, ha="center", va="center", color=color, fontsize=9)
    axes.set(xticks=range(classes), yticks=range(classes), xlabel="read as", ylabel="digit")
    axes.set_title(f"{mistakes.sum()} of {len(labels)} misread ({mistakes.sum() / len(labels):.2%})")
    axes.add_patch(Rectangle((-0.5, -0.5), classes, classes, fill=False, color=GREY, linewidth=0.8))
    for digit in range(classes):
        axes.add_patch(Rectangle((digit - 0.5, digit - 0.5), 1, 1, color=GREY, alpha=0.18, linewidth=0))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def misread_digits(
    images: Float[np.ndarray, "n h w"],
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n k"],
    rows: int = 4,
    columns: int = 8,
) -> Figure:
    """The misread digits, the most confidently misread first: what each is, and what it was read as."""
    predicted = probabilities.argmax(-1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-probabilities[wrong, predicted[wrong]])]
    shown = wrong[: rows * columns]
    columns = max(3, min(columns, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(1.25 * columns, 1.6 * rows + 0.5), layout="constrained")
    most = f", the {len(shown)} most confident of them" if len(shown) < len(wrong) else ""
    figure.suptitle(f"{len(wrong)} misread digits{most}")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, i in zip(grid.flat, shown, strict=False):
        axes.imshow(images[i], cmap="gray_r", vmin=0, vmax=images.max())
        certainty = probabilities[i, predicted[i]]
        axes.set_title(f"{labels[i]}, read as {predicted[i]}\n({certainty:.0%} sure)", fontsize=8, color=INK)
    return figure


def filters(weight: Float[np.ndarray, "pixels units"], shape: tuple[int, int], columns: int = 12) -> Figure:
    """What the first dense layer looks for: each unit's weights as an image, the strongest units first."""
    strongest = np.argsort(-np.linalg.norm(weight, axis=0))[: 6 * columns]
    rows = -(-len(strongest) // columns)
    figure = Figure(figsize=(0.85 * columns, 0.85 * rows + 0.8), layout="constrained")
    count = f"the {len(strongest)} strongest of {weight.shape[1]} units"
    figure.suptitle(f"First-layer weights, {count}: orange excites, blue inhibits")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, unit in zip(grid.flat, strongest, strict=False):
        image = weight[:, unit].reshape(shape)
        axes.imshow(image, cmap=SIGNED, vmin=-np.abs(image).max(), vmax=np.abs(image).max())
    return figure
