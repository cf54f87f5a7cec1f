"""An engine: one way to do a workload, called without arguments, its work finished when it returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax


@dataclass
class Engine:
    """What is timed; `compiled` is XLA's executable, None for PyTorch."""

    run: Callable[[], Any]
    compiled: Any = None

    def temporary_bytes(self) -> int | None:
        """What the executable needs beside its arguments and results."""
        return None if self.compiled is None else self.compiled.memory_analysis().temp_size_in_bytes

    def flops(self) -> float | None:
        """XLA's own count of floating-point operations."""
        costs = None if self.compiled is None else self.compiled.cost_analysis()
        return None if not costs else costs.get("flops")


def compiled(function: Callable, *arguments: Any) -> Engine:
    """A function of arguments that stay the same."""
    executable = jax.jit(function).lower(*arguments).compile()
    return Engine(lambda: jax.block_until_ready(executable(*arguments)), executable)


def stepping(step: Callable, state: Any, *arguments: Any) -> Engine:
    """A function (state, *arguments) -> (state, metrics) that donates its state and goes on from the one it returns."""
    executable = jax.jit(step, donate_argnums=0).lower(state, *arguments).compile()
    holder = [state]

    def run():
        holder[0], metrics = executable(holder[0], *arguments)
        jax.block_until_ready(metrics)

    return Engine(run, executable)
