"""Times jaxbp against jax.grad of the same forward pass and against PyTorch.

Every pair of engines gets a process of its own, in which the two take turns; a ratio above 1 means that jaxbp is the
faster one. The last column is the time to trace, lower and compile forward and backward, as a share of jax.grad's:
below 1, jaxbp is ready sooner. PyTorch is an extra (pip install -e ".[experiments,oracles]"); without it its column
stays empty.
"""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from experiments.benchmarks.engines import STAGES
from experiments.benchmarks.pairwise_timing import header, pair, spread
from experiments.benchmarks.workloads import WORKLOADS
from experiments.shared.command_line import command_line, save_figure, save_results
from jaxbp.core.text import table

RIVALS = ("jax.grad", "PyTorch")


@dataclass(frozen=True)
class Options:
    """What to time, and how long."""

    workloads: tuple[str, ...] = tuple(WORKLOADS)
    """Rows of the table."""
    rivals: tuple[str, ...] = RIVALS
    """Whom to compare with."""
    rounds: int = 60
    """Paired samples of each engine, some 40 milliseconds each."""
    builds: int = 5
    """Paired samples of tracing, lowering and compiling, with JAX's caches emptied before each."""
    output: Path = Path("results/benchmarks")
    """The folder for the picture and results.json."""


def main(options: Options | None = None) -> dict:
    """Measures, prints the table, draws the ratios; returns the numbers."""
    options = options or Options()
    results = {"header": header(), "rounds": options.rounds, "rows": []}
    for name in options.workloads:
        if name not in WORKLOADS:
            sys.exit(f'there is no workload "{name}"; there are {", ".join(WORKLOADS)}')
        row = {"workload": name}
        for rival in options.rivals:
            if rival == "PyTorch" and (WORKLOADS[name].torch_model is None or not importlib.util.find_spec("torch")):
                continue
            row[rival] = pair(name, "jaxbp", rival, options.rounds, options.builds if rival == "jax.grad" else 0)
        results["rows"].append(row)
        print(f"{name}: done", file=sys.stderr)
    print(f"{results['header']}\n\n{as_table(results['rows'])}")
    save_figure(options.output, "ratios", picture(results))
    save_results(options.output, results)
    return results


def as_table(rows: list[dict]) -> str:
    """A row a workload."""
    memory_and_work = ("temp MB", "of jax.grad's", "GFLOP")
    build = ("build s", f"of jax.grad's ({', '.join(STAGES)})")
    lines = [("workload", "jaxbp ms", "jax.grad / jaxbp", "PyTorch / jaxbp", *memory_and_work, *build)]
    for row in rows:
        auto = row.get("jax.grad") or row.get("PyTorch")
        memory = auto["temporary_bytes"]
        share = f"{memory['jaxbp'] / memory['jax.grad']:.3f}" if memory.get("jax.grad") else ""
        flops = auto["flops"]["jaxbp"]
        lines.append(
            (
                row["workload"],
                f"{auto['milliseconds']['jaxbp']:.2f}",
                *(spread(row.get(rival)) for rival in RIVALS),
                f"{memory['jaxbp'] / 1e6:.2f}",
                share,
                f"{flops / 1e9:.2f}" if flops else "",
                *build_share(auto.get("build")),
            )
        )
    return table(lines)


def build_share(build: dict | None) -> tuple[str, str]:
    """Our seconds from the function to its executable, and their share of jax.grad's, in all and stage by stage."""
    if build is None:
        return "", ""
    ratio = build["ratio"]
    stages = ", ".join(f"{ratio[stage]:.2f}" for stage in STAGES)
    return f"{build['seconds']['jaxbp']['all']:.2f}", f"{ratio['all']:.2f} ({stages})"


def picture(results: dict) -> Figure:
    """The ratios with their quartiles, a dot a pair."""
    rows = results["rows"]
    figure = Figure(figsize=(8, 1.6 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for rival, color, shift in zip(RIVALS, ("#2b6cb0", "#dd6b20"), (0.12, -0.12), strict=True):
        found = [(i, row[rival]["ratio"]) for i, row in enumerate(rows) if rival in row]
        if found:
            places = [len(rows) - 1 - i + shift for i, _ in found]
            medians = [ratio["median"] for _, ratio in found]
            spreads = [[r["median"] - r["q1"] for _, r in found], [r["q3"] - r["median"] for _, r in found]]
            axes.errorbar(medians, places, xerr=spreads, fmt="o", ms=6, color=color, label=f"against {rival}")
    axes.axvline(1, color="0.5", lw=1, ls="--")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.set_yticks(range(len(rows)), [row["workload"] for row in reversed(rows)])
    axes.set_xlabel("how many times as fast jaxbp is (median and quartiles)")
    axes.set_title(results["header"], fontsize=9, color="0.35")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")
    return figure


if __name__ == "__main__":
    command_line(main, Options)
