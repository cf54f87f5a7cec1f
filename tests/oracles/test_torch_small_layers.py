"""PyTorch as a second, independent oracle: gates, learned slopes, and soft caps, gradients in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import jaxbp
from tests.support.arrays import normal


def halved(gate):
    """The gate of the first half times the second."""
    return lambda x: gate(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1]


ELEMENTWISE = {
    jaxbp.GLU(): functional.glu,
    jaxbp.SwiGLU(): halved(functional.silu),
    jaxbp.GeGLU(): halved(functional.gelu),
    jaxbp.GeGLU(approximate=True): halved(lambda x: functional.gelu(x, approximate="tanh")),
    jaxbp.ReGLU(): halved(functional.relu),
    jaxbp.Softcap(1.5): lambda x: 1.5 * torch.tanh(x / 1.5),
}
SHAPES = [(4, 6), (3, 5, 4)]


@pytest.mark.parametrize(("ours", "theirs"), ELEMENTWISE.items(), ids=map(str, ELEMENTWISE))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gates_and_caps_agree_with_pytorch(ours, theirs, shape):
    numbers = np.asarray(3 * normal(*shape), float)
    x = torch.tensor(numbers, requires_grad=True)
    y = theirs(x)
    g = np.asarray(normal(*y.shape, seed=1), float)
    y.backward(torch.tensor(g))
    with jax.enable_x64(True):
        z, residuals = ours.forward((), jnp.asarray(numbers))
        np.testing.assert_allclose(z, y.detach(), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(ours.input_gradient((), residuals, jnp.asarray(g)), x.grad, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("channels", [None, 1], ids=["one slope", "a slope a channel"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_prelu_agrees_with_pytorch_whose_channels_are_axis_1(channels, shape):
    ours, count = jaxbp.PReLU(axis=channels), 1 if channels is None else shape[1]
    numbers, slopes = np.asarray(normal(*shape), float), np.asarray(0.25 + normal(count), float)
    numbers[0] = 0.0  # at the kink, too
    theirs, x = nn.PReLU(count).double(), torch.tensor(numbers, requires_grad=True)
    theirs.weight.data = torch.tensor(slopes)
    y = theirs(x)
    g = np.asarray(normal(*shape, seed=1), float)
    y.backward(torch.tensor(g))
    with jax.enable_x64(True):
        assert ours.initial == nn.PReLU().weight.item()
        params = {"slope": jnp.asarray(slopes).reshape(() if channels is None else count)}
        z, residuals = ours.forward(params, jnp.asarray(numbers))
        np.testing.assert_allclose(z, y.detach(), rtol=1e-12)
        np.testing.assert_allclose(ours.input_gradient(params, residuals, jnp.asarray(g)), x.grad, rtol=1e-12)
        gradient = ours.param_gradient(params, residuals, jnp.asarray(g))["slope"]
        np.testing.assert_allclose(gradient.reshape(-1), theirs.weight.grad, rtol=1e-12)
