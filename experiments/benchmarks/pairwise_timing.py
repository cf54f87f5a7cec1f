"""Times two engines against each other in one process, in turns, and prints one line of JSON.

A round is one sample of each; the ratio is taken within a round, as the machine's speed drifts between them, and the
engine that goes first alternates. A sample repeats the run until it lasts `SAMPLE_SECONDS`, for the clock's sake.
Compile time is spent before, and reported apart.
"""

import json
import sys
import time

import numpy as np

from experiments.benchmarks.quantities import QUANTITIES
from experiments.benchmarks.step_and_layer import ENGINES
from experiments.benchmarks.workloads import WORKLOADS

SAMPLE_SECONDS = 0.04


def measure(work, first: str, second: str, rounds: int) -> dict:
    """Medians in milliseconds, the spread (quartiles) of the ratio second / first, memory, operations, compile time."""
    built, compile_seconds = {}, {}
    for name in (first, second):
        start = time.perf_counter()
        built[name] = getattr(work, ENGINES[name])()
        built[name].run()
        compile_seconds[name] = time.perf_counter() - start
    repeats = {}
    for name, engine in built.items():
        for _ in range(3):
            seconds = sample(engine, 1)
        repeats[name] = max(1, round(SAMPLE_SECONDS / seconds))
    times = {name: [] for name in built}
    for i in range(rounds):
        for name in list(built)[:: 1 if i % 2 else -1]:
            times[name].append(sample(built[name], repeats[name]))
    ratios = np.array(times[second]) / np.array(times[first])
    return {
        "workload": work.name,
        "ratio": {"of": f"{second} / {first}", **dict(zip(("q1", "median", "q3"), quartiles(ratios), strict=True))},
        "milliseconds": {name: 1e3 * float(np.median(t)) for name, t in times.items()},
        "temporary_bytes": {name: engine.temporary_bytes() for name, engine in built.items()},
        "flops": {name: engine.flops() for name, engine in built.items()},
        "compile_seconds": compile_seconds,
        "rounds": rounds,
    }


def sample(engine, repeats: int) -> float:
    """Seconds a run."""
    start = time.perf_counter()
    for _ in range(repeats):
        engine.run()
    return (time.perf_counter() - start) / repeats


def quartiles(values) -> list[float]:
    """The three of them."""
    return [float(q) for q in np.percentile(values, (25, 50, 75))]


if __name__ == "__main__":
    workload, *engines, rounds = sys.argv[1:]
    print(json.dumps(measure((WORKLOADS | QUANTITIES)[workload], *engines, int(rounds))))
