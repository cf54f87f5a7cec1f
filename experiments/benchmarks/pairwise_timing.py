"""Times two engines against each other in one process, in turns, and prints one line of JSON.

A round is one sample of each; the ratio is taken within a round, as the machine's speed drifts between them, and the
engine that goes first alternates. A sample repeats the run until it lasts `SAMPLE_SECONDS`, for the clock's sake.
Building is timed apart, stage by stage: `measure_builds`.
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np

from experiments.benchmarks.engines import STAGES
from experiments.benchmarks.step_and_layer import ENGINES, LayerGradients

SAMPLE_SECONDS = 0.04


def measure(work, first: str, second: str, rounds: int) -> dict:
    """Medians in milliseconds, the spread (quartiles) of the ratio second / first, memory, operations."""
    built, samples = {}, {}
    for name in (first, second):
        engine = built[name] = getattr(work, ENGINES[name])()
        for _ in range(4):  # the first runs are slower
            seconds = sample(engine, 1)
        samples[name] = partial(sample, engine, repeats(seconds))
    return {
        "workload": work.name,
        **compare(in_turns(samples, rounds), second, first),
        "temporary_bytes": {name: engine.temporary_bytes() for name, engine in built.items()},
        "flops": {name: engine.flops() for name, engine in built.items()},
        "rounds": rounds,
    }


def measure_builds(work, first: str, second: str, rounds: int) -> dict:
    """Seconds to trace, lower and compile, and the medians of the ratio first / second, of each stage and in all.

    Gradients alone are built with their forward pass: there jax.vjp does its tracing.
    """
    if isinstance(work, LayerGradients):
        work = replace(work, with_forward=True)
    found = in_turns({name: getattr(work, ENGINES[name])().build for name in (first, second)}, rounds)
    seconds = {name: {stage: np.array([t[stage] for t in times]) for stage in STAGES} for name, times in found.items()}
    for stages in seconds.values():
        stages["all"] = sum(stages.values())
    ratios = {stage: float(np.median(s / seconds[second][stage])) for stage, s in seconds[first].items()}
    return {
        "seconds": {
            name: {stage: float(np.median(s)) for stage, s in stages.items()} for name, stages in seconds.items()
        },
        "ratio": {"of": f"{first} / {second}", **ratios},
        "rounds": rounds,
    }


def in_turns(samples: dict[str, Callable], rounds: int) -> dict[str, list]:
    """What each gives, called by turns in the order A B B A A B B A."""
    found = {name: [] for name in samples}
    for i in range(rounds):
        for name in list(samples)[:: -1 if i % 2 else 1]:
            found[name].append(samples[name]())
    return found


def compare(times: dict[str, list[float]], above: str, below: str) -> dict:
    """Medians, and the quartiles of the paired ratio above / below."""
    spread = quartiles(np.array(times[above]) / np.array(times[below]))
    return {
        "ratio": {"of": f"{above} / {below}", **dict(zip(("q1", "median", "q3"), spread, strict=True))},
        "milliseconds": {name: 1e3 * float(np.median(t)) for name, t in times.items()},
    }


def sample(engine, repeats: int) -> float:
    """Seconds a run."""
    start = time.perf_counter()
    for _ in range(repeats):
        engine.run()
    return (time.perf_counter() - start) / repeats


def repeats(seconds: float) -> int:
    """The number of runs of this length in a sample."""
    return max(1, round(SAMPLE_SECONDS / seconds))


def quartiles(values) -> list[float]:
    """The three of them."""
    return [float(q) for q in np.percentile(values, (25, 50, 75))]


def pair(workload: str, first: str, second: str, rounds: int, builds: int = 0) -> dict:
    """What `measure` and, under "build", `measure_builds` find in a fresh process, without a cache on disk."""
    numbers = [str(rounds), str(builds)]
    command = [sys.executable, "-m", "experiments.benchmarks.pairwise_timing", workload, first, second, *numbers]
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def spread(result: dict | None) -> str:
    """The median ratio and its quartiles."""
    return "" if result is None else "{median:.2f} ({q1:.2f}-{q3:.2f})".format(**result["ratio"])


def header() -> str:
    """Backend, processor and versions in one line."""
    versions = [f"jax {jax.__version__}"]
    if importlib.util.find_spec("torch"):
        versions.append(f"torch {importlib.metadata.version('torch')}")
    device = jax.devices()[0]
    kind = processor() if device.platform == "cpu" else device.device_kind
    return f"{device.platform} ({kind}), {os.cpu_count()} cores, {platform.machine()}, " + ", ".join(versions)


def processor(description: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name and widest vectors, where the system tells them."""
    text = description.read_text() if description.exists() else ""
    name = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    widest = next((name for name, flag in (("AVX-512", " avx512f "), ("AVX2", " avx2 ")) if flag in text), "")
    return ", ".join(filter(None, (name[1].strip() if name else platform.processor() or "unknown", widest)))


if __name__ == "__main__":
    # Imported here, as both import this file.
    from experiments.benchmarks.quantities import QUANTITIES
    from experiments.benchmarks.workloads import WORKLOADS

    workload, *engines, rounds, builds = sys.argv[1:]
    work = (WORKLOADS | QUANTITIES)[workload]
    found = measure(work, *engines, int(rounds))
    if int(builds):
        found["build"] = measure_builds(work, *engines, int(builds))
    print(json.dumps(found))
