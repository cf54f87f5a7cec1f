import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Dense, Repeat, Serial, SoftmaxCrossEntropy, Tanh
from jaxbp.curvature.ekfac import ekfac, kronecker_eigenbasis, precondition, solve
from jaxbp.curvature.fisher import Exact
from jaxbp.curvature.kronecker import Factors, as_matrix, damped_inverse, kronecker_factors
from tests.support.networks import CONVOLUTIONAL, MLP, SEQUENCE, batch, ggn_block, normal, relative_error

KEY = jax.random.key(3)


@pytest.mark.parametrize("model", [MLP, CONVOLUTIONAL, SEQUENCE], ids=["mlp", "conv", "sequence"])
def test_ekfac_values_are_the_ggn_in_the_basis_of_the_factors(model):
    params, x, y = batch(model)
    loss, last = SoftmaxCrossEntropy(), str(len(model.layers) - 1)
    tree = jax.jit(kronecker_factors(model, loss, Exact()))(params, x, y)[2]
    found = jaxbp.leaves(model, jax.jit(ekfac(model, loss, Exact()))(params, kronecker_eigenbasis(tree), x, y))
    assert [path for path, f in found.items() if f] == [p for p, f in jaxbp.leaves(model, tree).items() if f]
    for path in ("0", last):
        basis = jnp.kron(found[path].inputs, found[path].outputs)
        # One loss an example and position here, so the rows of different examples never mix in the GGN.
        true = jnp.diag(basis.T @ ggn_block(model, loss, params, path, x, y) @ basis)
        if model is not SEQUENCE:
            assert relative_error(found[path].values.ravel(), true) < 1e-9
        else:
            assert relative_error(found[path].values.sum(), jnp.sum(true)) < 1e-9


def test_ekfac_inside_a_repeat_has_values_for_each_turn():
    once = Serial(Dense(3), Tanh())
    model, x, y = Repeat(once, 2), normal(4, 3), jnp.array([0, 2, 1, 1])
    params = jax.jit(model.init)(KEY, x)
    loss = SoftmaxCrossEntropy()
    eigen = kronecker_eigenbasis(jax.jit(kronecker_factors(model, loss, Exact()))(params, x, y)[2])
    repeated = jax.jit(ekfac(model, loss, Exact()))(params, eigen, x, y)["body"][0]
    flat_params = tuple(jax.tree.map(lambda p, i=i: p[i], params["body"]) for i in range(2))
    flat_eigen = tuple(jax.tree.map(lambda p, i=i: p[i], eigen["body"]) for i in range(2))
    unrolled = jax.jit(ekfac(Serial(once, once), loss, Exact()))(flat_params, flat_eigen, x, y)
    for i in range(2):
        assert relative_error(repeated.values[i], unrolled[i][0].values) < 1e-9


def test_damped_inverses_and_solves_are_those_of_dense_matrices():
    a, b = normal(6, 3), normal(7, 2)
    f = Factors(a.T @ a / 6, b.T @ b)
    matrix, damping = normal(3, 2), 0.3
    pi = jnp.sqrt((jnp.trace(f.inputs) / 3) / (jnp.trace(f.outputs) / 2))
    split = damped_inverse(f, damping)
    np.testing.assert_allclose(split.inputs, jnp.linalg.inv(f.inputs + pi * damping**0.5 * jnp.eye(3)))
    np.testing.assert_allclose(split.outputs, jnp.linalg.inv(f.outputs + damping**0.5 / pi * jnp.eye(2)))
    whole = jnp.linalg.solve(jnp.kron(*f) + damping * jnp.eye(6), matrix.ravel()).reshape(3, 2)
    np.testing.assert_allclose(solve(kronecker_eigenbasis(f), matrix, damping), whole)
    # And of a whole model: the bias is the last row, a layer without factors keeps its gradient.
    model, gradient = Serial(Tanh(), Dense(2)), ((), {"weight": matrix[:2], "bias": matrix[2]})
    _, exact = precondition(model, ((), kronecker_eigenbasis(f)), gradient, damping)
    np.testing.assert_allclose(as_matrix(exact, 0), whole)
    _, shared = precondition(model, ((), f), gradient, damping)
    np.testing.assert_allclose(as_matrix(shared, 0), split.inputs @ matrix @ split.outputs)
