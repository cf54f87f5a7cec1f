"""BackPACK as a second, independent oracle for quantities, on the same weights and inputs in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from backpack import backpack, extend, extensions
from torch import nn

import jaxbp
from jaxbp import Conv, Dense, Flatten, MaxPool, ReLU, Serial, Sigmoid
from jaxbp.curvature.fisher import Exact
from jaxbp.curvature.kronecker import kfac_expand, kfac_reduce, kronecker_factors
from jaxbp.curvature.operators import ggn_diagonal
from jaxbp.quantities.ghost_norms import per_example_layer_norms
from jaxbp.quantities.gradient_statistics import gradient_second_moment, gradient_variance
from jaxbp.quantities.per_example import per_example_gradients

LOSS = jaxbp.SoftmaxCrossEntropy()
N = 5


def networks(name):
    """The same network twice: ours, parameters and inputs, and (weighted torch modules, torch model, inputs)."""
    numbers = np.random.default_rng(0)
    if name == "mlp":
        model, x = Serial(Dense(4), Sigmoid(), Dense(3)), numbers.normal(size=(N, 6))
        theirs = [nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 3)]
        z = torch.tensor(x)
    else:
        model = Serial(Conv(2, (3, 3)), ReLU(), MaxPool((2, 2)), Flatten(), Dense(3))
        x = numbers.normal(size=(N, 6, 6, 2))
        theirs = [nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3)]
        z = torch.tensor(x.transpose(0, 3, 1, 2))
    params = jax.jit(model.init)(jax.random.key(0), jnp.asarray(x))
    weighted = []
    for module, p in zip(theirs, params, strict=True):
        module.double()
        if p:
            module.weight.data = torch.tensor(np.array(to_torch(p["weight"], name)))
            module.bias.data = torch.tensor(np.array(p["bias"]))
            weighted.append(module)
    return model, params, jnp.asarray(x), weighted, nn.Sequential(*theirs), z.requires_grad_()


def to_torch(weight, name, lead=0):
    """Our [.., window.., inputs, outputs] as PyTorch has it, whose dense layer after Flatten counts channels first."""
    axes, last = list(range(lead)), weight.ndim - 1
    if weight.ndim - lead == 4:
        return np.transpose(weight, [*axes, last, last - 1, lead, lead + 1])
    if name == "conv":
        grid = weight.reshape(*weight.shape[:lead], 3, 3, 2, 3)
        turned = np.transpose(grid, [*axes, lead + 3, lead + 2, lead, lead + 1])
        return turned.reshape(*weight.shape[:lead], 3, 18)
    return np.swapaxes(weight, -1, -2)


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_quantities_are_those_of_backpack(name):
    with jax.enable_x64(True):
        model, params, x, weighted, theirs, z = networks(name)
        y = np.array([0, 2, 1, 1, 0])
        loss = extend(nn.CrossEntropyLoss())(extend(theirs)(z), torch.tensor(y))
        ask = [
            extensions.BatchGrad(),
            extensions.BatchL2Grad(),
            extensions.Variance(),
            extensions.SumGradSquared(),
            extensions.DiagGGNExact(),
            extensions.KFLR(),
        ]
        with backpack(*ask):
            loss.backward()

        quantities = {
            "one": per_example_gradients,
            "norm": per_example_layer_norms,
            "var": gradient_variance,
            "second": gradient_second_moment,
        }
        _, ours = jax.jit(jaxbp.value_and_quantities(model, LOSS, quantities))(params, x, jnp.asarray(y))
        diagonal = jax.jit(ggn_diagonal(model, LOSS, Exact()))(params, x, jnp.asarray(y))
        factors, reduced = (
            jax.jit(kronecker_factors(model, LOSS, Exact(), share))(params, x, jnp.asarray(y))[2]
            for share in (kfac_expand, kfac_reduce)
        )

        for i, module in zip([i for i, p in enumerate(params) if p], weighted, strict=True):
            w, b = module.weight, module.bias
            # BackPACK's single gradients are shares of the mean loss, 1/N of ours; its variance and second moment too.
            close(to_torch(ours["one"][i]["weight"], name, 1), N * w.grad_batch)
            close(ours["one"][i]["bias"], N * b.grad_batch)
            close(ours["norm"][i] ** 2, N**2 * (w.batch_l2 + b.batch_l2))
            close(to_torch(ours["var"][i]["weight"], name), N**2 * w.variance)
            close(to_torch(ours["second"][i]["weight"], name), N * w.sum_grad_squared)
            close(to_torch(diagonal[i]["weight"], name), w.diag_ggn_exact)
            close(diagonal[i]["bias"], b.diag_ggn_exact)
            # Of a convolution BackPACK has the A of expand, summed over the 36 positions, and the B of reduce; its
            # inputs count channels before windows.
            a = factors[i].inputs[:-1, :-1]
            if name == "conv":
                a = a.reshape(3, 3, 2, 3, 3, 2).transpose(2, 0, 1, 5, 3, 4).reshape(18, 18) * (36 if i == 0 else 1)
            close(a, w.kflr[1])
            close(reduced[i].outputs, w.kflr[0])


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-9, atol=1e-12)
