"""Times jaxbp's own engines in this checkout against those in another checkout of the project, row by row.

Each checkout gets a process of its own, which builds the rows from its own experiments.benchmarks. The two take turns
(A B B A ...) and never run at the same time. A ratio above 1 means that this checkout is the faster one. Printed with
the slowest first; what fails, or is in one checkout only, is listed below the table.

    python -m experiments.benchmarks.against ../before --only "mlp-*" "lenet-*"

How far the ratios are from 1 by chance is seen by comparing this checkout with itself.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import tyro

from experiments.benchmarks.pairwise_timing import compare, header, in_turns, repeats, spread
from experiments.shared.command_line import command_line, save_results
from jaxbp.core.text import table

HERE = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("against_worker.py")


@dataclass(frozen=True)
class Options:
    """What to time, and how long."""

    other: tyro.conf.Positional[Path]
    """The folder of the other checkout."""
    only: tuple[str, ...] = ("*",)
    """Rows whose name fits one of these patterns, as in "Conv(*"."""
    sweep: bool = False
    """Time the rows of experiments.benchmarks.sweep, not those of the table and of the quantities."""
    rounds: int = 15
    """Paired samples of each checkout, some 40 milliseconds each."""
    output: Path = Path("results/against")
    """The folder for table/results.json or sweep/results.json."""


class RowError(Exception):
    """A row can't be built or run in a checkout."""


class Worker:
    """The process of one checkout, see `against_worker.py`; one that has died is replaced at the next request."""

    def __init__(self, checkout: Path, kind: str):
        self.checkout, self.kind, self.process = checkout.resolve(), kind, None

    def start(self) -> None:
        """Starts the process, without waiting for its imports."""
        settings = {
            "PYTHONPATH": str(self.checkout),
            "PYTHONDONTWRITEBYTECODE": "1",  # the other checkout stays as it is
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # two processes share a GPU's memory
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", WORKER, self.kind],  # -P: this file's folder is not on the worker's path
            cwd=self.checkout,
            env={**os.environ, **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, *request) -> dict:
        """The answer, or a RowError."""
        if self.process is None:
            self.start()
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": f"the process ended with exit code {self.stop()}"}
        if "error" in answer:
            raise RowError(answer["error"])
        return answer

    def stop(self) -> int:
        """Ends the process; its exit code."""
        process, self.process = self.process, None
        process.communicate()
        return process.returncode


def main(options: Options) -> dict:
    """Measures, prints the table; returns the numbers."""
    kind = "sweep" if options.sweep else "table"
    if not (options.other / "experiments" / "benchmarks").is_dir():
        sys.exit(f"{options.other} has no folder experiments/benchmarks: name the folder of another checkout of jaxbp")
    workers = {"this": Worker(HERE, kind), "other": Worker(options.other, kind)}
    commits = {side: commit(worker.checkout) for side, worker in workers.items()}
    results = {"commits": commits, "rounds": options.rounds, "rows": [], "errors": {}}
    for worker in workers.values():
        worker.start()
    try:
        this, other = (names(side, worker, options.only, results["errors"]) for side, worker in workers.items())
        results["only_in"] = {
            "this": [name for name in this if name not in other],
            "other": [name for name in other if name not in this],
        }
        if not this and not other:
            sys.exit(f"no row's name fits {' or '.join(options.only)}")
        for name in this:
            if name in other:
                results["rows"].append(measure(name, workers, options.rounds))
                save_results(options.output / kind, results)
                print(f"{name}: done", file=sys.stderr)
    finally:
        for worker in workers.values():
            if worker.process:
                worker.stop()
    results["rows"].sort(key=lambda row: row["ratio"]["median"] if "ratio" in row else 0)
    results = {"header": header(), **results}  # written last: JAX starts here, after the workers gave back their GPU
    print(f"{results['header']}\n\n{report(results)}")
    save_results(options.output / kind, results)
    return results


def names(side: str, worker: Worker, patterns: tuple[str, ...], errors: dict[str, str]) -> list[str]:
    """The rows of a checkout that fit a pattern; modules that can't be imported are added to the errors."""
    try:
        found = worker.ask("names")
    except RowError as error:
        sys.exit(f"nothing can be timed in {worker.checkout}: {error}")
    errors.update({f"{module} in {side} checkout": error for module, error in found["errors"].items()})
    return [name for name in found["names"] if any(fnmatchcase(name, pattern) for pattern in patterns)]


def measure(name: str, workers: dict[str, Worker], rounds: int) -> dict:
    """The paired ratio, times and memory of a row; or the errors, by checkout."""
    built, errors = {}, {}
    for side, worker in workers.items():
        try:
            built[side] = worker.ask("build", name)
        except RowError as error:
            errors[side] = f"{error}"
    if errors:
        return {"workload": name, "errors": errors}

    def sampler(side):
        runs = repeats(built[side]["seconds"])

        def sample():
            try:
                return workers[side].ask("sample", runs)["seconds"]
            except RowError as error:
                errors[side] = f"{error}"
                raise

        return sample

    try:
        times = in_turns({side: sampler(side) for side in workers}, rounds)
    except RowError:
        return {"workload": name, "errors": errors}
    memory = {side: found["temporary_bytes"] for side, found in built.items()}
    return {"workload": name, **compare(times, "other", "this"), "temporary_bytes": memory, "rounds": rounds}


def report(results: dict) -> str:
    """The table, and below it what is not in it."""
    measured = [row for row in results["rows"] if "ratio" in row]
    lines = [("workload", "this ms", "other ms", "other / this", "temp MB", "of other's")]
    for row in measured:
        time, memory = row["milliseconds"], row["temporary_bytes"]
        share = f"{memory['this'] / memory['other']:.3f}" if memory["other"] else ""
        numbers = (f"{time['this']:.3f}", f"{time['other']:.3f}", spread(row), f"{memory['this'] / 1e6:.2f}", share)
        lines.append((row["workload"], *numbers))
    slower = sum(row["ratio"]["q3"] < 1 for row in measured)
    larger = sum(row["temporary_bytes"]["this"] > row["temporary_bytes"]["other"] for row in measured)
    words = [
        f"{len(measured)} rows; slower in this checkout, by three quarters of the samples: {slower}; "
        f"more temporary memory: {larger}"
    ]
    for row in results["rows"]:
        words += [f"{row['workload']}: fails in {side} checkout: {e}" for side, e in row.get("errors", {}).items()]
    words += [f"{module} can't be imported: {error}" for module, error in results["errors"].items()]
    for side, only in results["only_in"].items():
        words += [f"{name}: only in {side} checkout" for name in only]
    return "\n".join([table(lines), "", *words])


def commit(checkout: Path) -> str | None:
    """The commit that a checkout is at, marked where files differ from it; None outside git."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return None if done.returncode else done.stdout.strip()


if __name__ == "__main__":
    command_line(main, Options)
