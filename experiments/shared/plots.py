"""The experiments' figures: each function returns a matplotlib Figure and touches nothing global."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

BLUE, ORANGE, GREEN, INK, GREY = "#2b6cb0", "#dd6b20", "#2f855a", "#1a202c", "#a0aec0"
COUNTS = LinearSegmentedColormap.from_list("counts", ["#ffffff", "#fbd38d", ORANGE, "#7b341e"])
SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "#ffffff", ORANGE])


def learning_curves(history: Mapping[str, Sequence[float]], title: str = "Learning curves") -> Figure:
    """Loss and, where a validation was measured, error by epoch, from the history that `jaxbp.fit` returns."""
    validated = "validation_accuracy" in history
    figure = Figure(figsize=(9, 3.8) if validated else (5, 3.8), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    losses = {"training": "loss", "validation": "validation_loss", "averaged weights": "averaged_loss"}
    draw_curves(panels[0], {name: history[key] for name, key in losses.items() if key in history}, "loss")
    if validated:
        accuracies = {"validation": "validation_accuracy", "averaged weights": "averaged_accuracy"}
        errors = {
            name: [100 * (1 - accuracy) for accuracy in history[key]]
            for name, key in accuracies.items()
            if key in history
        }
        labelled = {f"{name}, {values[-1]:.2f} % at the end": values for name, values in errors.items()}
        draw_curves(panels[1], labelled, "error (%)", colors=[ORANGE, GREEN])
    return figure


def draw_curves(
    axes: Axes, curves: Mapping[str, Sequence[float]], ylabel: str, colors: Sequence[str] = (BLUE, ORANGE, GREEN)
) -> None:
    """One line a curve, named in a legend, on a logarithmic scale if no value is zero."""
    for color, (name, values) in zip(colors, curves.items(), strict=False):
        axes.plot(range(1, len(values) + 1), values, color=color, label=name, linewidth=1.8, marker=".", markersize=4)
    if min(map(min, curves.values())) > 0:
        wide = max(map(max, curves.values())) > 10 * min(map(min, curves.values()))
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(
            LogLocator(subs=(1, 2, 5) if wide else (1, 1.2, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8), numticks=20)
        )
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
    for axes, i in zip(pictures(figure, rows, columns), shown, strict=False):
        axes.imshow(images[i], cmap="gray_r", vmin=0, vmax=images.max())
        certainty = probabilities[i, predicted[i]]
        axes.set_title(f"{labels[i]}, read as {predicted[i]}\n({certainty:.0%} sure)", fontsize=8, color=INK)
    return figure


def filters(weight: Float[np.ndarray, "h w units"], most: int = 72) -> Figure:
    """What the first layer looks for: each unit's weights as an image, the strongest units first."""
    strongest = np.argsort(-np.linalg.norm(weight, axis=(0, 1)))[:most]
    columns = 12 if len(strongest) > 32 else max(1, min(8, len(strongest)))
    rows = -(-len(strongest) // columns)
    figure = Figure(figsize=(0.85 * columns + 0.2, 0.85 * rows + 0.45), layout="constrained")
    units = weight.shape[-1]
    count = f", the {len(strongest)} strongest of {units} units" if len(strongest) < units else f" of {units} units"
    figure.suptitle(f"First-layer weights{count}: orange excites, blue inhibits", fontsize=11)
    for axes, unit in zip(pictures(figure, rows, columns), strongest, strict=False):
        draw_signed(axes, weight[..., unit])
    return figure


def feature_maps(
    image: Float[np.ndarray, "h w"], stages: Sequence[Float[np.ndarray, "h w channels"]], probabilities: Sequence[float]
) -> Figure:
    """A digit on its way through the network: each stage's channels side by side, and the classes it ends in."""
    mosaics = [mosaic(maps) for maps in stages]
    widths = [*(4.4 * tiles.shape[1] / tiles.shape[0] + 0.3 for tiles in (image, *mosaics)), 1.8]
    figure = Figure(figsize=(sum(widths), 5), layout="constrained")
    first, *parts, last = figure.subplots(1, len(widths), width_ratios=widths)
    first.imshow(image, cmap="gray_r", vmin=0, vmax=1)
    first.set_title(f"{image.shape[0]}x{image.shape[1]}", fontsize=11)
    for axes, maps, tiles in zip(parts, stages, mosaics, strict=True):
        height, width, channels = maps.shape
        # The few brightest pixels of a stage would leave the others in the dark.
        axes.imshow(tiles, cmap=COUNTS, vmin=0, vmax=max(np.quantile(maps, 0.995), 1e-9))
        between = {"color": GREY, "linewidth": 0.6}
        axes.hlines(np.arange(0, tiles.shape[0] + 1, height) - 0.5, -0.5, tiles.shape[1] - 0.5, **between)
        axes.vlines(np.arange(0, tiles.shape[1] + 1, width) - 0.5, -0.5, tiles.shape[0] - 0.5, **between)
        axes.set_title(f"{channels} maps of {height}x{width}", fontsize=11)
    for axes in (first, *parts):
        axes.set_axis_off()
    last.barh(range(len(probabilities)), probabilities, color=BLUE, height=0.7)
    last.set(yticks=range(len(probabilities)), xlim=(0, 1), xticks=[0, 1])
    last.set_title("probability", fontsize=11)
    last.invert_yaxis()
    last.tick_params(length=0)
    last.spines[["top", "right", "left"]].set_visible(False)
    return figure


def mosaic(maps: Float[np.ndarray, "h w channels"]) -> Float[np.ndarray, "rows*h columns*w"]:
    """All channels as one image, row by row, at least as high as it is wide."""
    height, width, channels = maps.shape
    columns = max(n for n in range(1, channels + 1) if channels % n == 0 and n * n <= channels)
    tiles = maps.transpose(2, 0, 1).reshape(-1, columns, height, width)
    return tiles.transpose(0, 2, 1, 3).reshape(-1, columns * width)


def saliency(
    images: Float[np.ndarray, "n h w"],
    gradients: Float[np.ndarray, "n h w"],
    captions: Sequence[str],
    columns: int = 10,
) -> Figure:
    """Digits, and under each -∂J/∂x: where more ink (orange) or less ink (blue) would speak for the true digit."""
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.1 * columns, 2.4 * rows + 0.4), layout="constrained")
    figure.suptitle("Input gradients: more ink on orange, or less on blue, would speak for the true digit", fontsize=11)
    grid = np.array(pictures(figure, 2 * rows, columns)).reshape(rows, 2, columns)
    places = grid.transpose(0, 2, 1).reshape(-1, 2)
    for (above, below), image, gradient, caption in zip(places, images, gradients, captions, strict=False):
        above.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        above.set_title(caption, fontsize=8, color=INK)
        draw_signed(below, gradient)
        below.contour(image, levels=[0.5], colors=[INK], linewidths=0.6, alpha=0.6)
    return figure


def augmentations(originals: Float[np.ndarray, "n h w"], drawn: Float[np.ndarray, "k n h w"]) -> Figure:
    """Training digits in the first column, and beside each what augmentation makes of it."""
    columns, rows = 1 + len(drawn), len(originals)
    figure = Figure(figsize=(0.95 * columns, 0.95 * rows + 0.3), layout="constrained")
    figure.suptitle("Training digits (left), and what the network is shown", fontsize=11)
    grid = np.array(pictures(figure, rows, columns)).reshape(rows, columns)
    for row, images in zip(grid, np.concatenate([originals[None], drawn]).swapaxes(0, 1), strict=True):
        for axes, image in zip(row, images, strict=True):
            axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
    return figure


def pictures(figure: Figure, rows: int, columns: int) -> list[Axes]:
    """Places for images, row by row, without a frame."""
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in places:
        axes.set_axis_off()
    return places


def draw_signed(axes: Axes, image: Float[np.ndarray, "h w"]) -> None:
    """Orange above zero, blue below, white at zero."""
    reach = max(np.abs(image).max(), 1e-30)
    axes.imshow(image, cmap=SIGNED, vmin=-reach, vmax=reach)
