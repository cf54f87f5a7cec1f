"""What is timed: one entry a row of the table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optax

import jaxbp


@dataclass(frozen=True)
class Workload:
    """A training step: a model, a loss, an optimizer, and the shape of a batch.

    torch_model: the same in PyTorch, () -> (module, a function of its parameters that makes the optimizer); None where
        there is none to compare with.
    """

    name: str
    model: jaxbp.Layer
    loss: jaxbp.Loss
    optimizer: optax.GradientTransformation
    shape: tuple[int, ...]
    classes: int
    torch_model: Callable[[], tuple[Any, Any]] | None = None

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Random inputs and labels."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=self.shape).astype(np.float32)
        return x, rng.integers(0, self.classes, self.shape[0]).astype(np.int32)


def mlp(*widths: int, dropout: float = 0.0) -> jaxbp.Serial:
    """Dense layers with relu between them, dropout behind each relu."""
    layers: list[jaxbp.Layer] = []
    for width in widths[:-1]:
        layers += [jaxbp.Dense(width, initializer=jaxbp.He()), jaxbp.Relu()]
        layers += [jaxbp.Dropout(dropout)] if dropout else []
    return jaxbp.Serial(*layers, jaxbp.Dense(widths[-1]))


def torch_mlp(inputs: int, *widths: int, dropout: float = 0.0, adam: bool = False) -> Callable:
    """The same in PyTorch."""

    def build():
        import torch

        layers, before = [], inputs
        for width in widths[:-1]:
            layers += [torch.nn.Linear(before, width), torch.nn.ReLU()]
            layers += [torch.nn.Dropout(dropout)] if dropout else []
            before = width
        module = torch.nn.Sequential(*layers, torch.nn.Linear(before, widths[-1]))
        optimizer = torch.optim.Adam if adam else torch.optim.SGD
        return module, lambda parameters: optimizer(parameters, lr=1e-3)

    return build


SGD, ADAM = optax.sgd(1e-3), optax.adam(1e-3)

WORKLOADS = {
    work.name: work
    for work in [
        Workload(
            "mlp-sgd",
            mlp(800, 800, 10),
            jaxbp.SoftmaxCrossEntropy(),
            SGD,
            (128, 784),
            10,
            torch_mlp(784, 800, 800, 10),
        ),
        Workload(
            "mlp-adam",
            mlp(800, 800, 10),
            jaxbp.SoftmaxCrossEntropy(),
            ADAM,
            (128, 784),
            10,
            torch_mlp(784, 800, 800, 10, adam=True),
        ),
        Workload(
            "mlp-dropout-adam",
            mlp(800, 800, 10, dropout=0.5),
            jaxbp.SoftmaxCrossEntropy(),
            ADAM,
            (128, 784),
            10,
            torch_mlp(784, 800, 800, 10, dropout=0.5, adam=True),
        ),
    ]
}
