"""What the docstring of jaxbp/curvature/operators.py promises of the libraries that take its operators."""

import jax
import jax.numpy as jnp
import lineax
import matfree.decomp
import matfree.eig
import numpy as np
import pytest
import traceax
from jax.flatten_util import ravel_pytree

import jaxbp
from jaxbp import Dense, Serial, Tanh
from tests.support.arrays import labels, normal

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def curvature():
    """The operator over flat vectors, its matrix (of rank 8: 4 examples, 3 classes, whose errors add up to 0)."""
    with jax.enable_x64(True):
        model, x, y = Serial(Dense(5), Tanh(), Dense(3)), normal(4, 6, dtype="float64"), labels(4, 3)
        params = jax.jit(model.init)(KEY, x)
        product = jaxbp.as_flat(jaxbp.ggn_operator(model, jaxbp.SoftmaxCrossEntropy(), params, x, y), params)
        size = ravel_pytree(params)[0].size
        yield product, np.asarray(jax.jit(jax.vmap(product))(jnp.eye(size)))


def operator(product, size):
    shape = jax.ShapeDtypeStruct((size,), jnp.float64)
    return lineax.FunctionLinearOperator(product, shape, lineax.positive_semidefinite_tag)


def test_lineax_solves_with_conjugate_gradients(curvature):
    product, matrix = curvature
    size = len(matrix)
    damped = operator(lambda v: product(v) + 0.1 * v, size)
    b = normal(size, dtype="float64")
    solver = lineax.CG(rtol=1e-12, atol=1e-12)
    found = jax.jit(lambda b: lineax.linear_solve(damped, b, solver).value)(b)
    np.testing.assert_allclose(found, np.linalg.solve(matrix + 0.1 * np.eye(size), b), rtol=1e-8)


def test_traceax_estimates_the_trace(curvature):
    product, matrix = curvature
    whole = operator(product, len(matrix))
    # Hutch++ spends a third of its products on the range of the matrix: 8 of 24 hold all of it.
    exact, _ = jax.jit(lambda key: traceax.HutchPlusPlusEstimator(traceax.NormalSampler())(key, whole, 24))(KEY)
    np.testing.assert_allclose(exact, np.trace(matrix), rtol=1e-8)
    drawn = jax.vmap(lambda key: traceax.HutchinsonEstimator(traceax.NormalSampler())(key, whole, 50)[0])(
        jax.random.split(KEY, 40)
    )
    np.testing.assert_allclose(drawn.mean(), np.trace(matrix), rtol=0.1)


def test_matfree_finds_the_spectrum_by_lanczos(curvature):
    product, matrix = curvature
    lanczos = matfree.eig.eigh_partial(matfree.decomp.tridiag_sym(9))  # 8 that are not zero, and zero
    values, _ = jax.jit(lambda v: lanczos(product, v))(normal(len(matrix), dtype="float64"))
    np.testing.assert_allclose(np.sort(values)[1:], np.linalg.eigvalsh(matrix)[-8:], rtol=1e-6)
