"""PyTorch's own gradients: an oracle that shares no code with JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from jaxbp.layers.batch_norm import BatchNorm
from jaxbp.layers.normalization import GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from jaxbp.layers.spatial.convolution import Conv, ConvTranspose
from jaxbp.layers.spatial.pooling import AdaptiveAvgPool, AvgPool, GlobalAvgPool, MaxPool

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def channels_first(x):
    return torch.tensor(np.moveaxis(np.asarray(x), -1, 1), requires_grad=True)


def channels_last(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def agrees(layer, twin, x, params=(), rng=None, weight=None):
    """Outputs and input gradients of both; the parameter gradients are returned, ours and theirs."""
    with jax.enable_x64(True):
        forward = jax.jit(lambda params, x: layer.forward(params, x, rng))
        y, residuals = forward(jax.tree.map(jnp.asarray, params), jnp.asarray(x))
        g = normal(*y.shape, seed=1)
        dx, gradient = jax.jit(lambda p, r, g: (layer.input_gradient(p, r, g), layer.param_gradient(p, r, g)))(
            params, residuals, jnp.asarray(g)
        )
        their_x = channels_first(x)
        their_y = twin(their_x)
        their_y = their_y.reshape(y.shape[0], y.shape[-1], *y.shape[1:-1])
        their_y.backward(channels_first(g).detach())
        np.testing.assert_allclose(y, channels_last(their_y), **CLOSE)
        np.testing.assert_allclose(dx, channels_last(their_x.grad), **CLOSE)
        return gradient, residuals


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"), [(1, 1, 1, 1), (2, 0, 1, 2), (1, 2, 2, 1), ((2, 3), 1, 1, 4)]
)
@pytest.mark.parametrize("kind", [Conv, ConvTranspose])
def test_convolutions(kind, stride, padding, dilation, groups):
    x = normal(2, 7, 6, 4)
    layer = kind(8, (3, 2), stride, ((padding, padding),) * 2, dilation, groups)
    weight, bias = normal(3, 2, 4 // groups, 8, seed=2), normal(8, seed=3)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "dtype": torch.float64}
    if kind is Conv:
        twin = nn.Conv2d(4, 8, (3, 2), **options)

        def theirs(weight):  # [*window, inputs / groups, outputs] as [outputs, inputs / groups, *window]
            return weight.transpose(3, 2, 0, 1)

    else:
        twin = nn.ConvTranspose2d(4, 8, (3, 2), **options)

        def theirs(weight):  # as [inputs, outputs / groups, *window]
            split = weight.reshape(3, 2, 4 // groups, groups, 8 // groups)
            return split.transpose(3, 2, 4, 0, 1).reshape(4, 8 // groups, 3, 2)

    twin.weight.data, twin.bias.data = torch.tensor(theirs(weight).copy()), torch.tensor(bias)
    gradient, _ = agrees(layer, twin, x, {"weight": weight, "bias": bias})
    np.testing.assert_allclose(theirs(np.asarray(gradient["weight"])), twin.weight.grad, **CLOSE)
    np.testing.assert_allclose(gradient["bias"], twin.bias.grad, **CLOSE)


@pytest.mark.parametrize(
    ("layer", "twin"),
    [
        (MaxPool((2, 2)), nn.MaxPool2d(2)),
        (MaxPool((3, 3), 2, ((1, 1), (1, 1))), nn.MaxPool2d(3, 2, 1)),
        (AvgPool((2, 2)), nn.AvgPool2d(2)),
        (AvgPool((3, 3), 2, ((1, 1), (1, 1))), nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
        (GlobalAvgPool(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())),
        (AdaptiveAvgPool((3, 4)), nn.AdaptiveAvgPool2d((3, 4))),
    ],
    ids=str,
)
def test_pooling_ties_included(layer, twin):
    agrees(layer, twin, np.round(normal(2, 7, 6, 3)))  # rounded: most windows hold equal numbers


@pytest.mark.parametrize(
    ("layer", "twin"),
    [
        (GroupNorm(2), nn.GroupNorm(2, 4)),
        (InstanceNorm(), nn.InstanceNorm2d(4, affine=True)),
        (LayerNorm(), nn.LayerNorm(4)),
        (RMSNorm(), nn.RMSNorm(4, eps=1e-5)),
    ],
    ids=str,
)
def test_normalisations_of_single_examples(layer, twin):
    params = {name: normal(4, seed=i) for i, name in enumerate(layer.names)}
    twin = twin.double()
    twin.weight.data = torch.tensor(params["scale"])
    if "bias" in params:
        twin.bias.data = torch.tensor(params["bias"])
    last = isinstance(layer, LayerNorm | RMSNorm)
    along = (lambda x: twin(x.movedim(1, -1)).movedim(-1, 1)) if last else twin
    gradient, _ = agrees(layer, along, normal(2, 5, 3, 4), params)
    np.testing.assert_allclose(gradient["scale"], twin.weight.grad, **CLOSE)
    if "bias" in params:
        np.testing.assert_allclose(gradient["bias"], twin.bias.grad, **CLOSE)


def test_batch_norm_and_its_running_statistics_over_twenty_steps():
    layer, twin = BatchNorm(), nn.BatchNorm2d(4).double()
    params = {"scale": normal(4, seed=1), "bias": normal(4, seed=2), "mean": np.zeros(4), "variance": np.ones(4)}
    twin.weight.data, twin.bias.data = torch.tensor(params["scale"]), torch.tensor(params["bias"])
    x = normal(3, 2, 5, 4)
    gradient, _ = agrees(layer, twin, x, params, jax.random.key(0))
    np.testing.assert_allclose(gradient["scale"], twin.weight.grad, **CLOSE)
    np.testing.assert_allclose(gradient["bias"], twin.bias.grad, **CLOSE)
    twin.reset_running_stats()
    with jax.enable_x64(True):
        step = jax.jit(lambda params, x: layer.refresh(params, layer.forward(params, x, jax.random.key(0))[1]))
        for seed in range(20):
            x = normal(3, 2, 5, 4, seed=seed) * (seed + 1) + seed
            params = step(params, jnp.asarray(x))
            twin(channels_first(x))
    np.testing.assert_allclose(params["mean"], twin.running_mean, **CLOSE)
    np.testing.assert_allclose(params["variance"], twin.running_var, **CLOSE)
    agrees(layer, twin.eval(), x, jax.tree.map(np.asarray, params))
