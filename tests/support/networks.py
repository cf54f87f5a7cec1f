"""Networks, batches and brute force that the tests of quantities share."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

import jaxbp
from jaxbp import Dense, Flatten, ReLU, Repeat, Residual, Serial, SoftmaxCrossEntropy, Tanh
from jaxbp.curvature.kronecker import as_matrix, from_matrix
from jaxbp.layers.normalization import LayerNorm
from jaxbp.layers.spatial.convolution import Conv
from jaxbp.layers.spatial.pooling import MaxPool

N = 4

MLP = Serial(Dense(5), Tanh(), Dense(3))
DEEP = Serial(Dense(4), Repeat(Serial(Dense(4), Tanh()), 3), Residual(Serial(LayerNorm(), Dense(4))), Dense(3))
# Few channels and many positions: materialised; many channels and few positions: Gram.
CONVOLUTIONAL = Serial(
    Conv(2, (3, 3)), ReLU(), MaxPool((2, 2)), Conv(9, (2, 2), stride=2, bias=False), Flatten(), Dense(3)
)
SEQUENCE = Serial(Dense(6), Tanh(), Dense(3))


@cache
def batch(model, seed=0):
    """Random inputs that the model takes, labels and parameters."""
    numbers = np.random.default_rng(seed)
    shape = {MLP: (6,), DEEP: (4,), CONVOLUTIONAL: (6, 6, 1), SEQUENCE: (3, 4)}[model]
    x = jnp.asarray(numbers.normal(size=(N, *shape)))
    params = jax.jit(model.init)(jax.random.key(seed), x)
    params = jax.tree.map(lambda p: p + 0.1 * jnp.asarray(numbers.normal(size=p.shape)), params)
    return params, x, jnp.asarray(numbers.integers(3, size=(N, 3) if model is SEQUENCE else N))


def one_loss(model, loss):
    """J(θ) of one example, for jax.grad."""
    return lambda params, x, y: loss.forward(model.forward(params, x[None])[0], y[None])[0]


def brute_force(model, params, x, y, loss=None):
    """G_n by jax.grad, one example at a time."""
    loss = loss or SoftmaxCrossEntropy()
    return jax.jit(jax.vmap(jax.grad(one_loss(model, loss)), (None, 0, 0)))(params, x, y)


def flat(tree):
    """[n, all parameters] from a tree of [n, ...]."""
    return jnp.concatenate([a.reshape(a.shape[0], -1) for a in jax.tree.leaves(tree)], 1)


def quantity(model, name, params, x, y, **arguments):
    """One quantity of the cross-entropy."""
    return jax.jit(jaxbp.value_and_quantities(model, SoftmaxCrossEntropy(), {"it": name}))(params, x, y, **arguments)[
        1
    ]["it"]


def relative_error(found, expected):
    """max |found - expected| / max |expected| over trees of equal structure."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))) for a, b in pairs)


def normal(*shape, seed=0):
    """Random numbers of this shape."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def ggn_block(model, loss, params, path, x, y, weights=None):
    """The dense GGN of one layer, over its gradient matrix: Jᵀ (∂²J/∂outputs²) J by jax."""
    by_path = jaxbp.leaves(model, params)

    def outputs(matrix):
        own = by_path | {path: from_matrix(matrix, by_path[path])}
        return model.forward(jaxbp.core.paths.from_leaves(model, own), x)[0]

    @jax.jit
    def block(matrix):
        z = outputs(matrix)
        jacobian = jax.jacrev(outputs)(matrix).reshape(z.size, -1)
        hessian = jax.hessian(lambda z: loss.forward(z, y, weights)[0])(z).reshape(z.size, z.size)
        return jacobian.T @ hessian @ jacobian

    return block(as_matrix(by_path[path], 0))
