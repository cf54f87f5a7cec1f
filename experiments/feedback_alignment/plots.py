"""Rules of credit assignment side by side: how well each learns, and how far it strays from backpropagation."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from experiments.shared.plots import BLUE, GREEN, GREY, INK, ORANGE

PURPLE = "#805ad5"

TITLES = {
    "backprop": "backpropagation",
    "fa": "feedback alignment",
    "dfa": "direct feedback alignment",
    "usf": "signs, equal magnitudes",
    "frsf": "signs, fixed magnitudes",
    "brsf": "signs, magnitudes by batch",
}
COLORS = dict(zip(TITLES, (INK, ORANGE, BLUE, GREY, GREEN, PURPLE), strict=True))


def errors(results: Mapping[str, Mapping], title: str) -> Figure:
    """Error on training and on held-out examples by epoch and, if measured, on the test set beside the published.

    Args:
        results: what `experiments.feedback_alignment` measured, by rule.
        title: of the whole.
    """
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    figure.suptitle(title)
    # The test set is drawn if it was looked at.
    learned, held_out, *tested = figure.subplots(1, 2 + all("test_error_mean" in result for result in results.values()))
    for name, result in results.items():
        for axes, key in ((learned, "training_error"), (held_out, "held_out_error")):
            curves = [run[key] for run in result["runs"]]
            draw_band(axes, range(1, len(curves[0]) + 1), curves, color=COLORS[name], label=TITLES[name])
    top = 3 * max(run["held_out_error"][-1] for result in results.values() for run in result["runs"])
    for axes, words in ((learned, "training error (%)"), (held_out, "held-out error (%)")):
        axes.set(xlabel="epoch", ylabel=words, ylim=(0, top))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        tidy(axes)
    learned.legend(frameon=False)
    for axes in tested:
        draw_test(axes, results)
    return figure


def draw_test(axes: Axes, results: Mapping[str, Mapping]) -> None:
    """A row a rule: a dot for each seed, a stroke at their mean, a ring at the published figure."""
    for row, (name, result) in enumerate(results.items()):
        values = [run["test_error"] for run in result["runs"]]
        axes.scatter(values, [row] * len(values), s=26, color=COLORS[name], alpha=0.7, linewidth=0, zorder=3)
        axes.plot([np.mean(values)] * 2, [row - 0.28, row + 0.28], color=COLORS[name], linewidth=2)
        axes.text(np.mean(values), row - 0.34, f"{np.mean(values):.2f}", ha="center", fontsize=9, color=COLORS[name])
        if result["published"] is not None:
            axes.plot(result["published"], row, marker="o", markersize=11, fillstyle="none", color=INK)
    axes.set(yticks=range(len(results)), yticklabels=[TITLES[name] for name in results], xlabel="test error (%)")
    axes.set_ylim(len(results) - 0.4, -0.75)
    axes.margins(x=0.15)
    axes.set_title("dots: networks, stroke: their mean, ring: published", fontsize=9)
    tidy(axes)


def angles(results: Mapping[str, Mapping], layers: Mapping[str, str], title: str) -> Figure:
    """A panel a rule: degrees between each layer's update and backpropagation's, by step.

    Args:
        results: as in `errors`, without backpropagation.
        layers: names of the layers by path, in forward order; the last one gets the true update and is left out.
        title: of the whole.
    """
    *hidden, _ = layers.items()
    figure = Figure(figsize=(max(6.4, 1.2 + 3.6 * len(results)), 4), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, (name, result) in zip(panels, results.items(), strict=True):
        axes.axhline(90, color=INK, linewidth=1, linestyle="--")
        steps = result["runs"][0]["steps"]
        for color, (path, layer) in zip(cycle((ORANGE, PURPLE, BLUE, GREEN)), hidden, strict=False):
            draw_band(axes, steps, [run["angles"][path] for run in result["runs"]], color=color, label=layer)
        axes.set(
            title=TITLES[name],
            xlabel="step",
            xscale="log",
            xlim=(1, max(2, steps[-1])),
            ylim=(0, 120),
            yticks=range(0, 121, 30),
        )
        axes.xaxis.set_minor_formatter(NullFormatter())
        tidy(axes)
    panels[0].set_ylabel("degrees from backpropagation's update")
    panels[0].text(0.02, 91.5, "uphill beyond", transform=panels[0].get_yaxis_transform(), fontsize=8, color=INK)
    panels[0].legend(frameon=False, loc="lower left")
    return figure


def draw_band(axes: Axes, x: Sequence[float], seeds: Sequence[Sequence[float | None]], color: str, label: str) -> None:
    """The mean over the seeds, in a band from the least to the largest; a None leaves a gap."""
    values = np.array(seeds, float)
    axes.plot(x, values.mean(0), color=color, label=label, linewidth=1.8)
    axes.fill_between(x, values.min(0), values.max(0), color=color, alpha=0.18, linewidth=0)


def tidy(axes: Axes) -> None:
    """A faint grid, no box."""
    axes.grid(color=GREY, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
