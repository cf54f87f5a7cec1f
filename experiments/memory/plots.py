"""Figures of `experiments.memory`: who remembers how long, and how much of the gradient comes back how far."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.shared.plots import BLUE, GREEN, GREY, INK, ORANGE

COLORS = {"RNN": ORANGE, "GRU": GREEN, "LSTM": BLUE}
Runs = Sequence[Mapping[str, Any]]


def score_by_length(runs: Runs, score: str, chance: float, solved: float) -> Figure:
    """The score of each cell over the length, and the way each took to it at the greatest length."""
    figure = Figure(figsize=(9.5, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    longest = max(run["length"] for run in runs)
    for cell, color in COLORS.items():
        own = sorted((run for run in runs if run["cell"] == cell), key=lambda run: run["length"])
        if not own:
            continue
        left.plot([run["length"] for run in own], [run["score"] for run in own], "o-", color=color, label=cell, ms=5)
        losses = own[-1]["losses"]
        right.plot(np.linspace(0, 1, len(losses)), losses, color=color, label=cell, linewidth=1.4)
    for level, name in ((chance, "chance"), (solved, "solved")):
        left.axhline(level, color=GREY, linestyle="--", linewidth=1)
        left.annotate(
            name, (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=INK, fontsize=8
        )
    left.set(xlabel="length", ylabel=score, title="After training", xticks=sorted({run["length"] for run in runs}))
    right.set(xlabel="share of the training", ylabel="loss", title=f"On the way, length {longest}")
    if solved < chance:
        left.set_yscale("log")
    if min(min(run["losses"]) for run in runs if run["length"] == longest) < right.get_ylim()[1] / 10:
        right.set_yscale("log")
    for axes in (left, right):
        axes.grid(color=GREY, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False)
    return figure


def gradient_by_distance(runs: Runs, from_last: bool) -> Figure:
    """‖∂J/∂z[t]‖ by the distance of t from the end, before and after training; runs of one length."""
    figure = Figure(figsize=(9.5, 4.1), layout="constrained")
    figure.suptitle("How much of the gradient comes back over time", color=INK)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, when in zip(panels, ("before", "after"), strict=True):
        for run in runs:
            norms = np.array(run[f"deltas_{when}"])[::-1]
            axes.plot(
                np.maximum(norms / norms.max(), 1e-30), color=COLORS[run["cell"]], label=run["cell"], linewidth=1.7
            )
        axes.set(xlabel="times before the end", title=f"{when} training", yscale="log")
        axes.set_ylim(max(axes.get_ylim()[0], 1e-25), 3)
        axes.grid(color=GREY, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    where = "the last" if from_last else "the largest"
    panels[0].set_ylabel(f"size of the delta, in units of {where}")
    panels[0].legend(frameon=False)
    return figure
