import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree

import jaxbp
from jaxbp import Dense, HalfSquaredError, LayerError, Serial, SoftmaxCrossEntropy
from jaxbp.curvature.fisher import Empirical, Exact, MonteCarlo
from jaxbp.curvature.operators import as_scipy, ggn_diagonal, ggn_operator, ggn_products, hessian_operator
from jaxbp.layers.batch_norm import BatchNorm
from tests.support.networks import CONVOLUTIONAL, DEEP, MLP, SEQUENCE, batch, brute_force, flat, relative_error

LOSS = SoftmaxCrossEntropy()
KEY = jax.random.key(5)
MODELS = pytest.mark.parametrize("model", [MLP, DEEP, CONVOLUTIONAL, SEQUENCE], ids=["mlp", "deep", "conv", "sequence"])


def dense_ggn(model, params, x, y):
    """Jᵀ H J, and with it the order of the parameters."""
    vector, unflatten = ravel_pytree(params)
    z, _ = model.forward(params, x)
    jacobian = jax.jit(jax.jacrev(lambda p: model.forward(unflatten(p), x)[0].ravel()))(vector)
    hessian = jax.jit(jax.hessian(lambda z: LOSS.forward(z.reshape(4, *y.shape[1:], 3), y)[0]))(z.ravel())
    return jacobian.T @ hessian @ jacobian


def columns_of(operator, params):
    """The dense matrix of an operator, by all of its products at once."""
    vector, unflatten = ravel_pytree(params)
    assert vector.size <= 500
    return jax.jit(jax.vmap(lambda v: ravel_pytree(operator(unflatten(v)))[0], 1, 1))(jnp.eye(vector.size))


@MODELS
def test_hessian_products_are_those_of_the_dense_hessian(model):
    params, x, y = batch(model)
    vector, unflatten = ravel_pytree(params)
    true = jax.jit(jax.hessian(lambda p: LOSS.forward(model.forward(unflatten(p), x)[0], y)[0]))(vector)
    assert relative_error(columns_of(hessian_operator(model, LOSS, params, x, y), params), true) < 1e-9


@MODELS
def test_gauss_newton_products_and_diagonals_are_those_of_the_dense_matrix(model):
    params, x, y = batch(model)
    true = dense_ggn(model, params, x, y)
    assert relative_error(columns_of(ggn_operator(model, LOSS, params, x, y), params), true) < 1e-9
    diagonal = jax.jit(ggn_diagonal(model, LOSS, Exact()))(params, x, y)
    assert relative_error(ravel_pytree(diagonal)[0], jnp.diag(true)) < 1e-9


def test_products_between_vectors_are_those_of_the_dense_matrix():
    params, x, y = batch(MLP)
    vector, unflatten = ravel_pytree(params)
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(3, vector.size)))
    found = ggn_products(MLP, LOSS, params, x, y)([unflatten(row) for row in rows])
    assert relative_error(found, rows @ dense_ggn(MLP, params, x, y) @ rows.T) < 1e-9


def test_products_of_a_dense_layer_worked_by_hand():
    # J = ½ mean (w x - t)² with x = 1, 3: Hessian and GGN are both mean x² = 5.
    params, x, t = ({"weight": jnp.array([[2.0]])},), jnp.array([[1.0], [3.0]]), jnp.zeros((2, 1))
    v = ({"weight": jnp.array([[10.0]])},)
    for operator in (hessian_operator, ggn_operator):
        product = operator(Serial(Dense(1, bias=False)), HalfSquaredError(), params, x, t)(v)
        np.testing.assert_allclose(product[0]["weight"], [[50]])


def test_the_monte_carlo_diagonal_tends_to_the_exact_one():
    params, x, y = batch(MLP)
    exact = jax.jit(ggn_diagonal(MLP, LOSS, Exact()))(params, x, y)
    drawn = jax.jit(ggn_diagonal(MLP, LOSS, MonteCarlo(4000)))(params, x, y, key=KEY)
    assert relative_error(drawn, exact) < 0.1


def test_the_empirical_diagonal_is_the_mean_square_of_single_gradients():
    params, x, y = batch(CONVOLUTIONAL)
    found = jax.jit(ggn_diagonal(CONVOLUTIONAL, LOSS, Empirical()))(params, x, y)
    true = (flat(brute_force(CONVOLUTIONAL, params, x, y)) ** 2).mean(0)
    assert relative_error(ravel_pytree(found)[0], true) < 1e-9


def test_scipy_finds_the_largest_eigenvalues():
    params, x, y = batch(MLP)
    true = jnp.linalg.eigvalsh(dense_ggn(MLP, params, x, y))
    operator = as_scipy(ggn_operator(MLP, LOSS, params, x, y), params)
    found = scipy.sparse.linalg.eigsh(operator, k=3, return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(found), true[-3:], rtol=1e-9)
    np.testing.assert_allclose(operator @ np.eye(len(true)), dense_ggn(MLP, params, x, y), atol=1e-12)


def test_conjugate_gradients_solve_with_a_damped_operator():
    params, x, y = batch(MLP)
    operator = ggn_operator(MLP, LOSS, params, x, y)
    _, gradient = jax.jit(jaxbp.value_and_grad(MLP, LOSS))(params, x, y)

    def damped(v):
        return jax.tree.map(lambda a, b: a + 0.1 * b, operator(v), v)

    solution, _ = jax.jit(lambda g: jax.scipy.sparse.linalg.cg(damped, g, tol=1e-12, maxiter=100))(gradient)
    true = jnp.linalg.solve(dense_ggn(MLP, params, x, y) + 0.1 * jnp.eye(53), ravel_pytree(gradient)[0])
    assert relative_error(ravel_pytree(solution)[0], true) < 1e-9


def test_products_with_weights_leave_out_what_weighs_nothing():
    params, x, y = batch(MLP)
    v = jax.tree.map(jnp.ones_like, params)
    for operator in (hessian_operator, ggn_operator):
        weighted = jax.jit(operator(MLP, LOSS, params, x, y, weights=jnp.array([1.0, 1.0, 0.0, 0.0])))(v)
        assert relative_error(weighted, jax.jit(operator(MLP, LOSS, params, x[:2], y[:2]))(v)) < 1e-9


@pytest.mark.parametrize("operator", [hessian_operator, ggn_operator])
def test_a_vector_of_another_shape_is_refused(operator):
    params, x, y = batch(MLP)
    with pytest.raises(ValueError, match="expected a vector shaped like the parameters"):
        operator(MLP, LOSS, params, x, y)(params[0])


def test_the_diagonal_refuses_layers_that_mix_examples_by_name():
    with pytest.raises(LayerError, match=r'layer "1", BatchNorm\(\): mixes'):
        ggn_diagonal(Serial(Dense(2), BatchNorm()), LOSS, Exact())
