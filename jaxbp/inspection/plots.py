"""Figures. matplotlib is an extra: pip install "jaxbp[figures]"."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Sizes = dict[str, dict[str, float]]  # by path, by name, as `jaxbp.signal_sizes` returns them


def plot_flow(over_training: Sequence[Sizes], labels: Sequence[str] | None = None) -> "Figure":
    """How large activations, deltas and gradients are, layer by layer, one line a moment of the training.

    A signal that keeps its size is a level line. Deltas and gradients travel from right to left: a line that falls
    that way vanishes, one that rises explodes; beyond a factor of 1,000 the panel says so.

    Args:
        over_training: what `jaxbp.signal_sizes` returned, at one moment after the other.
        labels: a name for each moment; "epoch 0", "epoch 1"… unless given.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    labels = [f"epoch {i}" for i in range(len(over_training))] if labels is None else labels
    colors = colormaps["viridis"](np.linspace(0.0, 0.9, len(over_training)))
    panels = {
        "activation": "activations  (→ forward)",
        "delta": "deltas δ, per example  (← backward)",
        "gradient": "parameter gradients",
    }
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        paths = [path for path, sizes in over_training[0].items() if name in sizes]
        shown = {0, len(over_training) // 2, len(over_training) - 1}
        for i, (sizes, color) in enumerate(zip(over_training, colors, strict=True)):
            line = [max(sizes[path][name], 1e-30) for path in paths]
            axes.plot(line, "o-", ms=4, lw=1.6, color=color, label=labels[i] if i in shown else None)
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high / low < 1e3:  # a level line should look level
            middle = (low * high) ** 0.5
            axes.set_ylim(middle / 10**1.5, middle * 10**1.5)
        axes.set_xticks(range(len(paths)), paths, rotation=45 if max(map(len, paths)) > 3 else 0)
        axes.set_xlabel("layer")
        axes.set_title(title + _verdict(name, [over_training[-1][path][name] for path in paths]))
        axes.grid(alpha=0.25, which="major")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("root mean square")
    figure.axes[0].legend(frameon=False, fontsize=9)
    return figure


def _verdict(name: str, sizes: Sequence[float]) -> str:
    """The word for a signal whose size changes by more than 1,000 on its way through the layers."""
    first, last = (sizes[0], sizes[-1]) if name == "activation" else (sizes[-1], sizes[0])
    if not np.isfinite(sizes).all() or last > 1e3 * first:
        return "\nexploding"
    return "\nvanishing" if last < 1e-3 * first else ""
