"""The two kinds of workload, a training step and the gradients of one layer, each by every engine.

By hand and by jax.grad go the same model, loss, optimizer and numbers; only the backward pass differs. Except that
jax.grad gets XLA's plain convolution (`plainly`): through `jaxbp.layers.spatial.cpu_algorithms` it would be slower.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax
import numpy as np
import optax

import jaxbp
from experiments.benchmarks.engines import Engine, compiled, stepping

plainly = mock.patch("jaxbp.core.chunking.on_cpu", new=bool)  # which answers False, while the function is traced
CROSS_ENTROPY = jaxbp.SoftmaxCrossEntropy()


@dataclass(frozen=True)
class TrainingStep:
    """Forward, backward and update on one batch of random numbers.

    torch_model: the same in PyTorch, () -> (module, a function of its parameters that makes the optimizer); None where
        there is none to compare with.
    in_scan: the number of steps in one `lax.scan`; 0 is one step without a scan.
    """

    name: str
    model: jaxbp.Layer
    optimizer: optax.GradientTransformation
    shape: tuple[int, ...]
    torch_model: Callable[[], tuple[Any, Any]] | None = None
    loss: jaxbp.Loss = CROSS_ENTROPY
    classes: int = 10
    in_scan: int = 0

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Random inputs and labels."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=self.shape).astype(np.float32)
        return x, rng.integers(0, self.classes, self.shape[0]).astype(np.int32)

    def by_jaxbp(self) -> Engine:
        """Through `jaxbp.make_train_step`."""
        return self._stepping(jaxbp.make_train_step(self.model, self.loss, self.optimizer))

    def by_autodiff(self) -> Engine:
        """Through jax.value_and_grad."""

        def value(params, x, targets, rng):
            outputs, residuals = self.model.forward(params, x, rng)
            return self.loss.forward(outputs, targets)[0], self.model.refresh(params, residuals)

        @plainly
        def step(state, x, targets):
            rng = jaxbp.training.step.step_key(state)
            (loss, refreshed), gradient = jax.value_and_grad(value, has_aux=True)(state.params, x, targets, rng)
            updates, optimizer_state = self.optimizer.update(gradient, state.optimizer_state, state.params)
            params = optax.apply_updates(state.params, updates)
            params = jaxbp.training.step.with_statistics(self.model, params, refreshed)
            return jaxbp.TrainState(params, optimizer_state, state.step + 1, state.key), {"loss": loss}

        return self._stepping(step)

    def by_torch(self) -> Engine:
        """Through PyTorch's autograd, eager, on the same kind of device."""
        import torch

        device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        module, optimizer = self.torch_model()
        module.to(device)
        optimize = optimizer(module.parameters())
        x, targets = self.batch()
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

    def _stepping(self, step) -> Engine:
        x, targets = jax.tree.map(jax.numpy.asarray, self.batch())
        if self.in_scan:
            one = step

            def step(state, x, targets):
                return jax.lax.scan(lambda state, _: one(state, x, targets), state, length=self.in_scan)

        return stepping(step, jaxbp.TrainState.create(self.model, self.optimizer, x, jax.random.key(0)), x, targets)


@dataclass(frozen=True)
class LayerGradients:
    """One layer's backward pass from residuals computed beforehand: ∂J/∂x and ∂J/∂θ.

    with_forward: count the forward pass too.
    training: with a key.
    plain: the forward pass that jax.grad differentiates, (params, x) -> y, where it isn't the layer's own.
    """

    name: str
    layer: jaxbp.Layer
    shape: tuple[int, ...]
    with_forward: bool = False
    training: bool = False
    plain: Callable | None = None
    torch_model = None

    def by_jaxbp(self) -> Engine:
        """The layer's two gradients."""
        params, x, g = self._numbers()
        both = lambda residuals, g: (  # noqa: E731
            self.layer.input_gradient(params, residuals, g),
            self.layer.param_gradient(params, residuals, g),
        )
        if self.with_forward:

            def all_of_it(x, g):
                y, residuals = self._forward(params, x)
                return y, both(residuals, g)

            return compiled(all_of_it, x, g)
        return compiled(both, jax.jit(self._forward)(params, x)[1], g)

    def by_autodiff(self) -> Engine:
        """What jax.vjp makes of the forward pass."""
        params, x, g = self._numbers()
        forward = plainly(self.plain or (lambda params, x: self._forward(params, x)[0]))
        vjp = lambda params, x: jax.vjp(forward, params, x)  # noqa: E731
        if self.with_forward:

            def all_of_it(x, g):
                y, pull_back = vjp(params, x)
                return y, pull_back(g)

            return compiled(all_of_it, x, g)
        return compiled(lambda pull_back, g: pull_back(g), jax.jit(vjp)(params, x)[1], g)

    def _forward(self, params, x):
        return self.layer.forward(params, x, jax.random.key(0) if self.training else None)

    def _numbers(self):
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], self.shape)
        params = self.layer.init(keys[1], x)
        y = jax.eval_shape(lambda: self.layer.forward(params, x)[0])
        return params, x, jax.random.normal(keys[2], y.shape)


ENGINES = {"jaxbp": "by_jaxbp", "jax.grad": "by_autodiff", "PyTorch": "by_torch", "gradient": "by_gradient"}
