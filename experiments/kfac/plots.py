"""Pictures of K-FAC's race: losses by step and by second, and what the autoencoders make of digits."""

import numpy as np
from matplotlib.figure import Figure

from experiments.kfac.race import Curve, steps_to
from experiments.shared.plots import BLUE, GREEN, GREY, INK, ORANGE, pictures

COLORS = {"SGD": GREEN, "Adam": ORANGE, "K-FAC": BLUE}


def draw_curves(curves: dict[str, Curve], seconds: dict[str, float], title: str) -> Figure:
    """Losses by step and by second: training as a line, validation dashed; a ring where K-FAC passes Adam's end."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    figure.suptitle(title)
    target = curves["Adam"].training[-1]
    reached = steps_to(curves["K-FAC"], target)
    for axes, unit, scale in zip(
        figure.subplots(1, 2, sharey=True), ("step", "second"), (dict.fromkeys(curves, 1.0), seconds), strict=True
    ):
        for name, curve in curves.items():
            at = scale[name] * np.array(curve.steps)
            axes.plot(at, curve.training, color=COLORS[name], linewidth=2, label=name)
            axes.plot(at, curve.validation, color=COLORS[name], linewidth=1, linestyle=(0, (4, 2)), alpha=0.7)
        axes.axhline(target, color=INK, linewidth=0.8, linestyle=":")
        if reached is not None:
            place = scale["K-FAC"] * reached
            share = place / (scale["Adam"] * curves["Adam"].steps[-1])
            axes.plot(place, target, "o", markersize=10, markerfacecolor="none", color=INK)
            label = f"K-FAC has Adam's last loss\nafter {place:.3g} {unit}s, {share:.2f} of Adam's"
            arrow = {"arrowstyle": "-", "color": INK, "linewidth": 0.8, "shrinkB": 6}
            axes.annotate(label, (place, target), (0.36, 0.5), textcoords="axes fraction", arrowprops=arrow, fontsize=9)
        axes.set(xlabel=f"{unit}s", yscale="log", xlim=(0, None))
        axes.grid(color=GREY, alpha=0.3, which="both")
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside right center", title="dashed: validation", frameon=False
    )
    figure.axes[0].set_ylabel("loss (nats per digit)")
    return figure


def draw_reconstructions(images: np.ndarray, by: dict[str, np.ndarray]) -> Figure:
    """Digits [n, 28, 28] and, under them, [n, 784], what each autoencoder makes of its 30 numbers for them."""
    rows = {"digit": images} | {name: shown.reshape(images.shape) for name, shown in by.items()}
    figure = Figure(figsize=(0.85 * len(images) + 0.6, 0.85 * len(rows)), layout="constrained")
    grid = np.array(pictures(figure, len(rows), len(images))).reshape(len(rows), -1)
    for line, (name, shown) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, shown, strict=True):
            axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        line[0].text(-0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center", color=INK)
    return figure
