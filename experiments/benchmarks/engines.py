"""An engine: one way to do a workload, called without arguments, its work finished when it returns."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

STAGES = ("trace", "lower", "compile")


@dataclass
class Engine:
    """What is timed.

    Args:
        run: does the work once.
        compiled: XLA's executable.
        build: makes another executable, and gives the seconds of each of STAGES.

    PyTorch has neither of the last two.
    """

    run: Callable[[], Any]
    compiled: Any = None
    build: Callable[[], dict[str, float]] | None = None

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
    build = partial(build_seconds, jax.jit(function), *shapes(arguments))
    return Engine(lambda: jax.block_until_ready(executable(*arguments)), executable, build)


def stepping(step: Callable, state: Any, *arguments: Any) -> Engine:
    """A function (state, *arguments) -> (state, metrics) that donates its state and goes on from the one it returns."""
    jitted = jax.jit(step, donate_argnums=0)
    build = partial(build_seconds, jitted, *shapes((state, *arguments)))
    executable = jitted.lower(state, *arguments).compile()
    holder = [state]

    def run():
        holder[0], metrics = executable(holder[0], *arguments)
        jax.block_until_ready(metrics)

    return Engine(run, executable, build)


def shapes(arguments: tuple) -> tuple:
    """Stand-ins for arrays, with which a function can be compiled."""
    return jax.eval_shape(lambda *arrays: arrays, *arguments)


def build_seconds(jitted: Any, *arguments: Any) -> dict[str, float]:
    """The seconds of each of STAGES.

    JAX's caches are emptied before, as they are in a user's new process: else this function, and every `jnp` function
    in it that another has traced, would be free.
    """
    jax.clear_caches()
    seconds = {}
    for stage in STAGES:
        start = time.perf_counter()
        jitted = jitted.trace(*arguments) if stage == "trace" else getattr(jitted, stage)()
        seconds[stage] = time.perf_counter() - start
    return seconds
