"""The same training step three times: by jaxbp, by jax.grad of the same forward pass, by PyTorch.

An engine is built from a workload and called without arguments: one step on the same batch, finished when it returns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

import jaxbp
from experiments.benchmarks.workloads import Workload

DONATED = 0


@dataclass
class Engine:
    """A step to be timed; `compiled` is XLA's executable, None for PyTorch."""

    step: Callable[[], None]
    compiled: Any = None

    def temporary_bytes(self) -> int | None:
        """What the compiled step needs beside its arguments and results."""
        return None if self.compiled is None else self.compiled.memory_analysis().temp_size_in_bytes

    def flops(self) -> float | None:
        """XLA's own count of floating-point operations."""
        costs = None if self.compiled is None else self.compiled.cost_analysis()
        return None if not costs else costs.get("flops")


def jaxbp_engine(work: Workload) -> Engine:
    """Through `jaxbp.make_train_step`."""
    return _compiled(work, jaxbp.make_train_step(work.model, work.loss, work.optimizer))


def autodiff_engine(work: Workload) -> Engine:
    """Through jax.value_and_grad of the same forward pass and loss, with the same optimizer."""

    def value(params, x, targets, rng):
        outputs, _ = work.model.forward(params, x, rng)
        return work.loss.forward(outputs, targets)[0]

    @partial(jax.jit, donate_argnums=DONATED)
    def step(state, x, targets):
        rng = jax.random.fold_in(jax.random.fold_in(state.key, 0), state.step)
        loss, gradient = jax.value_and_grad(value)(state.params, x, targets, rng)
        updates, optimizer_state = work.optimizer.update(gradient, state.optimizer_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return jaxbp.TrainState(params, optimizer_state, state.step + 1, state.key), {"loss": loss}

    return _compiled(work, step)


def _compiled(work: Workload, step) -> Engine:
    x, targets = jax.tree.map(jax.numpy.asarray, work.batch())
    state = jaxbp.TrainState.create(work.model, work.optimizer, x, jax.random.key(0))
    compiled = jax.jit(step, donate_argnums=DONATED).lower(state, x, targets).compile()
    holder = [state]

    def run():
        holder[0], metrics = compiled(holder[0], x, targets)
        metrics["loss"].block_until_ready()

    return Engine(run, compiled)


def torch_engine(work: Workload) -> Engine:
    """Through PyTorch's autograd, eager, on the same device kind, with as many threads as there are cores."""
    import torch

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    module, optimizer = work.torch_model()
    module.to(device)
    optimize = optimizer(module.parameters())
    x, targets = work.batch()
    if x.ndim == 4:  # channels come first in PyTorch
        x = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    x, targets = torch.tensor(x, device=device), torch.tensor(targets, device=device).long()
    criterion = torch.nn.CrossEntropyLoss()

    def run():
        optimize.zero_grad()
        criterion(module(x), targets).backward()
        optimize.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return Engine(run)


ENGINES = {"jaxbp": jaxbp_engine, "jax.grad": autodiff_engine, "PyTorch": torch_engine}
