"""PyTorch's RNN, GRU and LSTM on the same weights: padded sequences, both directions, initial states, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import jaxbp
from tests.support.arrays import normal

N, TIMES, INPUTS, OUTPUTS = 3, 5, 2, 3
LENGTHS = np.array([3, 5, 1])
CELLS = {jaxbp.RNN: nn.RNN, jaxbp.GRU: nn.GRU, jaxbp.LSTM: nn.LSTM}


def ours_from(module, take):
    """Their arrays as our parameters: weights transposed; two biases, which add where the cell has one."""
    params = {}
    for name, suffix in (("forward_in_time", "l0"), ("back_in_time", "l0_reverse")):
        w, u, b, c = (
            take(getattr(module, f"{kind}_{suffix}")) for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        if isinstance(module, nn.GRU):
            params[name] = {"input": {"weight": w.T, "bias": b}, "recurrent": {"weight": u.T, "bias": c}}
        else:
            params[name] = {"input": {"weight": w.T}, "recurrent": {"weight": u.T, "bias": b + c}}
    return jax.tree.map(jnp.asarray, params | {"join": ()})


@pytest.mark.parametrize(("cell", "theirs"), CELLS.items(), ids=["RNN", "GRU", "LSTM"])
def test_padded_sequences_in_both_directions_agree_with_pytorch(cell, theirs):
    module = theirs(INPUTS, OUTPUTS, batch_first=True, bidirectional=True).double()
    begin = [
        torch.tensor(np.asarray(normal(2, N, OUTPUTS, seed=i), float), requires_grad=True)
        for i in range(1 + (cell is jaxbp.LSTM))
    ]
    x = torch.tensor(np.asarray(normal(N, TIMES, INPUTS), float), requires_grad=True)
    packed = pack_padded_sequence(x, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
    y, end = module(packed, tuple(begin) if cell is jaxbp.LSTM else begin[0])
    y, end = pad_packed_sequence(y, batch_first=True)[0], end if isinstance(end, tuple) else (end,)
    g_y, g_end = normal(*y.shape, seed=7), [normal(*e.shape, seed=8 + i) for i, e in enumerate(end)]
    numbers = lambda a: torch.tensor(np.asarray(a, float))  # noqa: E731
    torch.autograd.backward((y, *end), (numbers(g_y), *map(numbers, g_end)))

    def by_direction(arrays):
        return tuple(tuple(jnp.asarray(a, float)[direction] for a in arrays) for direction in range(2))

    with jax.enable_x64(True):
        layer, params = jaxbp.Bidirectional(cell(OUTPUTS)), ours_from(module, lambda a: a.detach().numpy())
        arrays = by_direction([np.asarray(b.detach()) for b in begin])
        sequences = jaxbp.Sequences(jnp.asarray(x.detach().numpy()), jnp.asarray(LENGTHS), arrays)
        g = jaxbp.Sequences(jnp.asarray(g_y, float), None, (), by_direction(g_end))

        @jax.jit
        def run(params, x, g):
            y, residuals = layer.forward(params, x)
            return y, *jaxbp.sweep(layer, params, residuals, g)

        out, dx, gradient = run(params, sequences, g)
        expected = (
            (out.values, y),
            *zip(out.ended, by_direction([np.asarray(e.detach()) for e in end]), strict=True),
            (dx.values, x.grad),
            *zip(dx.states, by_direction([np.asarray(b.grad) for b in begin]), strict=True),
        )
        for a, b in expected:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14), a, _plain(b))
        both = _true_gradient(module)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14), gradient, both)


def _plain(a):
    return a.detach().numpy() if isinstance(a, torch.Tensor) else a


def _true_gradient(module):
    """As `ours_from`, of gradients: where two biases add, each has the gradient of their sum."""
    gradient = ours_from(module, lambda a: a.grad.numpy())
    if isinstance(module, nn.GRU):
        return gradient
    return {
        name: {**at, "recurrent": {**at["recurrent"], "bias": at["recurrent"]["bias"] / 2}} if at else at
        for name, at in gradient.items()
    }
