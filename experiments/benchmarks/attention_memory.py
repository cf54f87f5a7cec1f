"""How attention's memory grows with the length: gradients by hand, and by jax.grad of the textbook's lines.

Of B=2 examples with 4 heads of 64. Nothing is run: the numbers are what XLA sets aside beside arguments and results.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.pairwise_timing import header
from experiments.benchmarks.text import AttentionGradients
from experiments.shared.command_line import command_line, save_figure, save_results
from jaxbp.core.text import table


@dataclass(frozen=True)
class Options:
    """Which lengths."""

    lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)
    """Positions a sequence."""
    causal: bool = False
    """Whether each position sees only those before."""
    output: Path = Path("results/attention_memory")
    """The folder for the picture and results.json."""


def main(options: Options | None = None) -> dict:
    """Compiles, prints the table, draws it; returns the numbers."""
    options = options or Options()
    rows = []
    for length in options.lengths:
        work = AttentionGradients("", options.causal, length=length)
        rows.append(
            {
                "length": length,
                "jaxbp": work.by_jaxbp().temporary_bytes(),
                "jax.grad": work.by_autodiff().temporary_bytes(),
                "inputs": sum(a.nbytes for a in work.batch()),
            }
        )
    results = {"header": header(), "causal": options.causal, "rows": rows}
    print(f"{results['header']}\n\n{as_table(rows)}")
    save_figure(options.output, "memory", picture(rows))
    save_results(options.output, results)
    return results


def as_table(rows: list[dict]) -> str:
    """A row a length."""
    lines = [("positions", "inputs MB", "jaxbp MB", "jax.grad MB", "of jax.grad's")]
    for row in rows:
        megabytes = [f"{row[name] / 1e6:.1f}" for name in ("inputs", "jaxbp", "jax.grad")]
        lines.append((str(row["length"]), *megabytes, f"{row['jaxbp'] / row['jax.grad']:.3f}"))
    return table(lines)


def picture(rows: list[dict]) -> Figure:
    """Memory over length, both axes logarithmic: a slope of 1 is linear, one of 2 the square."""
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    lengths = np.array([row["length"] for row in rows])
    for name, color, label in (
        ("jax.grad", "#dd6b20", "jax.grad of the textbook's lines"),
        ("jaxbp", "#2b6cb0", "jaxbp.Attention"),
        ("inputs", "0.6", "q, k, v and ∂J/∂y themselves"),
    ):
        axes.plot(lengths, [row[name] / 1e6 for row in rows], "o-", color=color, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, lengths)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} MB")
    axes.set_xlabel("positions")
    axes.set_title("memory of attention's gradients", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    command_line(main, Options)
