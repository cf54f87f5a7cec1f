"""Gradients of recurrent layers: by hand, by jax.grad through the scan a user would write, and by PyTorch.

Each run takes the outputs, ∂J/∂x and the gradients of all parameters for a given ∂J/∂y.

The scan is the textbook's, with x_t W inside the step, which is also the fastest for jax.grad on a CPU: with x W taken
in front of the scan it needs 1.3 times as long (all of z lies about), and through `layer.forward`, whose buffers are
written over, four times.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxbp
from experiments.benchmarks.engines import Engine, compiled


def lstm_scan(params, x):
    """The textbook's LSTM, x [n, t, inputs] -> h [n, t, outputs]: one step a time, all gates in one matmul."""
    inputs, recurrent = params["input"]["weight"], params["recurrent"]["weight"]

    def step(state, x_t):
        h, c = state
        i, f, g, o = jnp.split(x_t @ inputs + h @ recurrent + params["recurrent"]["bias"], 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((x.shape[0], recurrent.shape[0]), x.dtype)
    return jnp.swapaxes(lax.scan(step, (zero, zero), jnp.swapaxes(x, 0, 1))[1], 0, 1)


def gru_scan(params, x):
    """The textbook's GRU, with the reset gate behind the recurrent weights."""
    inputs, recurrent = params["input"], params["recurrent"]

    def step(h, x_t):
        z_r, z_u, z_m = jnp.split(x_t @ inputs["weight"] + inputs["bias"], 3, -1)
        p_r, p_u, p_m = jnp.split(h @ recurrent["weight"] + recurrent["bias"], 3, -1)
        u = jax.nn.sigmoid(z_u + p_u)
        m = jnp.tanh(z_m + jax.nn.sigmoid(z_r + p_r) * p_m)
        h = (1 - u) * m + u * h
        return h, h

    zero = jnp.zeros((x.shape[0], recurrent["weight"].shape[0]), x.dtype)
    return jnp.swapaxes(lax.scan(step, zero, jnp.swapaxes(x, 0, 1))[1], 0, 1)


SCANS = {jaxbp.LSTM: lstm_scan, jaxbp.GRU: gru_scan}


@dataclass(frozen=True)
class RecurrentGradients:
    """Forward and backward of one recurrent layer on x [n, t, inputs].

    torch_model: the name in torch.nn.
    """

    name: str
    layer: jaxbp.Layer
    shape: tuple[int, int, int]
    torch_model: str

    def by_jaxbp(self) -> Engine:
        """One forward and one sweep."""
        params, x, g = self._numbers()

        def run(params, x, g):
            y, residuals = self.layer.forward(params, x)
            return y, *jaxbp.sweep(self.layer, params, residuals, g)

        return compiled(run, params, x, g)

    def by_autodiff(self) -> Engine:
        """jax.vjp of the textbook's scan."""
        params, x, g = self._numbers()

        def run(params, x, g):
            y, pull_back = jax.vjp(SCANS[type(self.layer)], params, x)
            dparams, dx = pull_back(g)
            return y, dx, dparams

        return compiled(run, params, x, g)

    def by_torch(self) -> Engine:
        """PyTorch's own layer, on the same kind of device."""
        import torch

        device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        layer = getattr(torch.nn, self.torch_model)(self.shape[-1], self.layer.outputs, batch_first=True, device=device)
        _, x, g = (jax.tree.map(lambda a: torch.tensor(np.asarray(a), device=device), t) for t in self._numbers())
        x.requires_grad_()

        def run():
            layer.zero_grad()
            x.grad = None
            layer(x)[0].backward(g)
            if device == "cuda":
                torch.cuda.synchronize()

        return Engine(run)

    def _numbers(self):
        random = np.random.default_rng(0)
        x = jnp.asarray(random.normal(size=self.shape), jnp.float32)
        g = jnp.asarray(random.normal(size=(*self.shape[:2], self.layer.outputs)), jnp.float32)
        return self.layer.init(jax.random.key(0), x), x, g


RECURRENT = [
    RecurrentGradients("lstm, against a scan", jaxbp.LSTM(256), (64, 100, 128), "LSTM"),
    RecurrentGradients("gru, against a scan", jaxbp.GRU(256), (64, 100, 128), "GRU"),
]
