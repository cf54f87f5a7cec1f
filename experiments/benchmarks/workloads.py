"""What is timed: one entry a row of the table."""

from collections.abc import Callable

import optax

import jaxbp
from experiments.benchmarks.ctc import CTCGradient
from experiments.benchmarks.recurrent import RECURRENT, RecurrentGradients
from experiments.benchmarks.step_and_layer import LayerGradients, TrainingStep
from experiments.benchmarks.text import TEXT, AttentionGradients, EmbeddingGradient, WordGradients


def mlp(*widths: int, dropout: float = 0.0) -> jaxbp.Serial:
    """Dense layers with relu between them, dropout behind each relu."""
    layers: list[jaxbp.Layer] = []
    for width in widths[:-1]:
        layers += [jaxbp.Dense(width, initializer=jaxbp.He()), jaxbp.ReLU()]
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


def torch_lenet():
    """`jaxbp.lenet()` in PyTorch, with the relu after the pooling there too."""
    import torch

    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 5, padding=2),
        torch.nn.MaxPool2d(2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 64, 5, padding=2),
        torch.nn.MaxPool2d(2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(7 * 7 * 64, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 10),
    )
    return module, lambda parameters: torch.optim.SGD(parameters, lr=1e-3)


SGD, ADAM = optax.sgd(1e-3), optax.adam(1e-3)
WIDTHS = (800, 800, 10)

Work = (
    TrainingStep
    | LayerGradients
    | CTCGradient
    | RecurrentGradients
    | AttentionGradients
    | WordGradients
    | EmbeddingGradient
)

WORKLOADS: dict[str, Work] = {
    work.name: work
    for work in [
        TrainingStep("mlp-sgd", mlp(*WIDTHS), SGD, (128, 784), torch_mlp(784, *WIDTHS)),
        TrainingStep("mlp-adam", mlp(*WIDTHS), ADAM, (128, 784), torch_mlp(784, *WIDTHS, adam=True)),
        TrainingStep(
            "mlp-dropout-adam",
            mlp(*WIDTHS, dropout=0.5),
            ADAM,
            (128, 784),
            torch_mlp(784, *WIDTHS, dropout=0.5, adam=True),
        ),
        TrainingStep("lenet-sgd", jaxbp.lenet(), SGD, (128, 28, 28, 1), torch_lenet),
        TrainingStep("lenet-sgd, two steps in a scan", jaxbp.lenet(), SGD, (128, 28, 28, 1), in_scan=2),
        TrainingStep("resnet20-sgd", jaxbp.resnet(), SGD, (32, 32, 32, 3)),
        LayerGradients("max-pool 2x2, gradient", jaxbp.MaxPool((2, 2)), (128, 28, 28, 32)),
        LayerGradients("max-pool 2x2, with forward", jaxbp.MaxPool((2, 2)), (128, 28, 28, 32), with_forward=True),
        LayerGradients("max-pool 3x3, stride 2", jaxbp.MaxPool((3, 3), 2), (32, 32, 32, 32)),
        LayerGradients("average-pool 2x2", jaxbp.AvgPool((2, 2)), (32, 32, 32, 32)),
        LayerGradients("conv 3x3", jaxbp.Conv(64, (3, 3)), (32, 16, 16, 64)),
        LayerGradients("conv 3x3, stride 2", jaxbp.Conv(64, (3, 3), 2), (32, 32, 32, 32)),
        LayerGradients("conv 3x3, depthwise", jaxbp.Conv(64, (3, 3), groups=64), (32, 16, 16, 64)),
        LayerGradients("transposed conv 4x4, stride 2", jaxbp.ConvTranspose(16, (4, 4), stride=2), (32, 14, 14, 32)),
        CTCGradient("ctc, value and gradient"),
        *RECURRENT,
        *TEXT,
        LayerGradients("transposed conv 3x3", jaxbp.ConvTranspose(32, (3, 3)), (32, 16, 16, 32)),
        LayerGradients("batch norm in evaluation", jaxbp.BatchNorm(), (32, 32, 32, 32), with_forward=True),
        LayerGradients("layer norm", jaxbp.LayerNorm(), (32, 128, 256), with_forward=True),
    ]
}
