"""Builds the rows of one checkout's benchmarks and times them on request: the other end of `against.py`.

It runs as a file in the folder of any checkout and uses the `experiments.benchmarks` that lies there. Of these it needs
only what has been the same in all of them, the collections in `ROWS`, `work.by_jaxbp()`, `engine.run()` and
`engine.temporary_bytes()`, and nothing of its own package, which may not be there.

A request is a line of JSON on the standard input, the answer a line on the standard output:

    ["names"]             -> {"names": [...], "errors": {module: error}}
    ["build", name]       -> {"seconds": of one run, "temporary_bytes": ...}      the row built before is let go
    ["sample", repeats]   -> {"seconds": of one run}

What fails gives {"error": ...}, and the next request is answered as if it had not happened.
"""

import gc
import importlib
import json
import os
import sys
import time
from pathlib import Path

ROWS = {
    "table": {"experiments.benchmarks.workloads": "WORKLOADS", "experiments.benchmarks.quantities": "QUANTITIES"},
    "sweep": {"experiments.benchmarks.sweep": "sweep"},
}


class Worker:
    """One checkout's rows by name, and the engine that was built last."""

    def __init__(self, kind: str):
        library = Path(importlib.import_module("jaxbp").__file__)
        if Path.cwd() not in library.parents:
            raise ImportError(f"jaxbp comes from {library}, expected it in {Path.cwd()}")
        self.works, self.errors, self.engine = {}, {}, None
        for module, attribute in ROWS[kind].items():
            try:
                found = getattr(importlib.import_module(module), attribute)
                self.works |= found if isinstance(found, dict) else {work.name: work for work in found()}
            except Exception as error:
                self.errors[module] = words(error)

    def names(self) -> dict:
        """All rows, and what could not be imported."""
        return {"names": list(self.works), "errors": self.errors}

    def build(self, name: str) -> dict:
        """Compiles a row's own engine and warms it up."""
        self.engine = None
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()
        gc.collect()
        self.engine = self.works[name].by_jaxbp()
        for _ in range(4):  # the first runs are slower
            found = self.sample(1)
        return {**found, "temporary_bytes": self.engine.temporary_bytes()}

    def sample(self, repeats: int) -> dict:
        """Times the engine, after a run for the caches that the other checkout's process has just used."""
        if repeats > 1:
            self.engine.run()
        start = time.perf_counter()
        for _ in range(repeats):
            self.engine.run()
        return {"seconds": (time.perf_counter() - start) / repeats}


def words(error: Exception) -> str:
    """An error in one line of moderate length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def main(kind: str) -> None:
    """Answers until the input ends; what libraries print goes to the standard error instead."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    worker = Worker(kind)
    for line in sys.stdin:
        request, *arguments = json.loads(line)
        try:
            answer = getattr(worker, request)(*arguments)
        except Exception as error:
            answer = {"error": words(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
