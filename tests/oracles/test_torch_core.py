"""PyTorch as a second, independent oracle: dense layers, activations and losses, gradients in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import jaxbp
from tests.support.arrays import labels, normal

X = np.asarray(3 * normal(4, 3), float)

ACTIVATIONS = {
    jaxbp.Sigmoid(): nn.Sigmoid(),
    jaxbp.Tanh(): nn.Tanh(),
    jaxbp.ReLU(): nn.ReLU(),
    jaxbp.LeakyReLU(): nn.LeakyReLU(),
    jaxbp.ELU(2.0): nn.ELU(2.0),
    jaxbp.Softplus(): nn.Softplus(threshold=1000),
    jaxbp.SiLU(): nn.SiLU(),
    jaxbp.GELU(): nn.GELU(),
    jaxbp.GELU(True): nn.GELU(approximate="tanh"),
    jaxbp.Softmax(): nn.Softmax(-1),
    jaxbp.LogSoftmax(): nn.LogSoftmax(-1),
}
SOFT = np.asarray(jax.nn.softmax(normal(4, 3)), float)
IGNORED = np.array([0, 2, -1, 1])
LOSSES = {
    "mean squared error": (jaxbp.MeanSquaredError(), nn.MSELoss(), SOFT),
    "huber": (jaxbp.Huber(0.5), lambda z, y: 3 * nn.HuberLoss(delta=0.5)(z, y), SOFT),
    "binary": (jaxbp.BinaryCrossEntropy(), lambda z, y: 3 * nn.BCEWithLogitsLoss()(z, y), SOFT),
    "labels": (jaxbp.SoftmaxCrossEntropy(), nn.CrossEntropyLoss(), np.asarray(labels(4, 3), np.int64)),
    "soft labels": (jaxbp.SoftmaxCrossEntropy(), nn.CrossEntropyLoss(), SOFT),
    "smoothing": (jaxbp.SoftmaxCrossEntropy(0.1), nn.CrossEntropyLoss(label_smoothing=0.1), SOFT),
    "ignored label": (
        jaxbp.SoftmaxCrossEntropy(0.1, -1),
        nn.CrossEntropyLoss(ignore_index=-1, label_smoothing=0.1),
        IGNORED,
    ),
}


@pytest.mark.parametrize(("ours", "theirs"), ACTIVATIONS.items(), ids=map(str, ACTIVATIONS))
def test_activations_agree_with_pytorch(ours, theirs):
    x = torch.tensor(X, requires_grad=True)
    y = theirs(x)
    y.backward(torch.tensor(SOFT))
    with jax.enable_x64(True):
        z, residuals = ours.forward((), jnp.asarray(X))
        np.testing.assert_allclose(z, y.detach(), rtol=1e-12, atol=1e-15)
        dx = ours.input_gradient((), residuals, jnp.asarray(SOFT))
        np.testing.assert_allclose(dx, x.grad, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize(("ours", "theirs", "targets"), LOSSES.values(), ids=LOSSES)
def test_losses_agree_with_pytorch(ours, theirs, targets):
    x = torch.tensor(X, requires_grad=True)
    value = theirs(x, torch.tensor(targets))
    value.backward()
    with jax.enable_x64(True):
        our_value, residuals = ours.forward(jnp.asarray(X), jnp.asarray(targets))
        np.testing.assert_allclose(our_value, value.detach(), rtol=1e-12)
        np.testing.assert_allclose(ours.backward(residuals), x.grad, rtol=1e-10, atol=1e-15)


def test_a_network_agrees_with_pytorch():
    theirs = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    targets = np.array([0, 2, 1, 1])
    value = nn.CrossEntropyLoss()(theirs(torch.tensor(X)), torch.tensor(targets))
    value.backward()
    model = jaxbp.Serial(jaxbp.Dense(5), jaxbp.ReLU(), jaxbp.Dense(3))

    def mirrored(take):
        """Their arrays as our parameters: PyTorch keeps weights transposed."""
        return tuple(
            {"weight": jnp.asarray(take(at.weight).T), "bias": jnp.asarray(take(at.bias))}
            if isinstance(at, nn.Linear)
            else ()
            for at in theirs
        )

    with jax.enable_x64(True):
        params = mirrored(lambda a: a.detach().numpy())
        ours, gradient = jaxbp.value_and_grad(model, jaxbp.SoftmaxCrossEntropy())(
            params, jnp.asarray(X), jnp.asarray(targets)
        )
        np.testing.assert_allclose(ours, value.item(), rtol=1e-12)
        for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(mirrored(lambda a: a.grad.numpy())), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-15)
