"""Curvature of trees of outputs, and of losses that mix examples."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxbp
from jaxbp import Dense, HalfSquaredError, InfoNCE, Parallel, Serial, SoftmaxCrossEntropy, SumOfLosses, Tanh
from jaxbp.curvature.fisher import Empirical, Exact, MonteCarlo
from jaxbp.curvature.kronecker import kronecker_factors
from jaxbp.curvature.operators import ggn_diagonal, ggn_operator, ggn_products
from tests.support.arrays import labels, normal
from tests.support.loss_oracle import dense
from tests.support.networks import relative_error

MODEL = Serial(Dense(3), Tanh(), Parallel(Dense(2), Dense(3)))
LOSS = SumOfLosses([(HalfSquaredError(), 0.5), (SoftmaxCrossEntropy(), 2.0)])
PAIR = Serial(Dense(3), Tanh(), Parallel(Dense(2), Dense(2)))
KEY, FISHERS = jax.random.key(3), [Exact(), MonteCarlo(), Empirical()]
WEIGHTS = np.array([1.0, 2.0, 0.5, 0.0])


def batch(model=MODEL):
    """Inputs, targets and parameters, in float64."""
    x, targets = normal(4, 4, dtype=float), (normal(4, 2, dtype=float), labels(4, 3))
    params = jax.tree.map(lambda p: p.astype(float), model.init(jax.random.key(0), x))
    return params, x, targets if model is MODEL else ()


@partial(jax.jit, static_argnums=(0, 1))
def true_ggn(model, loss, params, x, targets, weights=None):
    """Jᵀ H J as matrices, J by autodiff and H as the loss gives it, which the tests of losses prove."""
    flat, unflatten = ravel_pytree(params)
    outputs, _ = model.forward(params, x)
    _, kept = loss.forward(outputs, targets, weights)
    hessian = dense(lambda v: loss.hessian(kept, v), outputs)
    jacobian = jax.jacobian(lambda p: ravel_pytree(model.forward(unflatten(p), x)[0])[0])(flat)
    return jacobian.T @ hessian @ jacobian


@pytest.mark.parametrize(("model", "loss"), [(MODEL, LOSS), (PAIR, InfoNCE(0.5))], ids=["sum", "mixing"])
def test_products_with_the_ggn_take_trees_of_outputs_and_losses_that_mix_examples(model, loss):
    params, x, targets = batch(model)
    flat, unflatten = ravel_pytree(params)
    vectors = normal(2, flat.size, dtype=float)

    @jax.jit
    def products():
        operator = ggn_operator(model, loss, params, x, targets, weights=WEIGHTS)
        between = ggn_products(model, loss, params, x, targets, weights=WEIGHTS)
        return dense(operator, params), between([unflatten(v) for v in vectors])

    true = true_ggn(model, loss, params, x, targets, WEIGHTS)
    matrix, found = products()
    assert relative_error(matrix, true) < 1e-9
    assert relative_error(found, vectors @ true @ vectors.T) < 1e-9


def test_the_diagonal_is_exact_for_trees_of_outputs():
    params, x, targets = batch()
    true = true_ggn(MODEL, LOSS, params, x, targets, WEIGHTS)
    run = jax.jit(ggn_diagonal(MODEL, LOSS, Exact()))
    assert relative_error(ravel_pytree(run(params, x, targets, weights=WEIGHTS))[0], jnp.diag(true)) < 1e-9
    drawn = jax.jit(ggn_diagonal(MODEL, LOSS, MonteCarlo(4000)))(params, x, targets, weights=WEIGHTS, key=KEY)
    assert relative_error(ravel_pytree(drawn)[0], jnp.diag(true)) < 0.1


def test_a_root_of_fewer_columns_takes_fewer_sweeps_and_is_exact():
    params, x, _ = batch(PAIR)
    loss, targets = jaxbp.CosineEmbedding(), jnp.array([1, -1, 1, 1])
    outputs, _ = PAIR.forward(params, x)
    assert Exact().columns(loss, loss.forward(outputs, targets)[1], outputs, None)[0] == 2
    found = jax.jit(ggn_diagonal(PAIR, loss, Exact()))(params, x, targets)
    true = jnp.diag(true_ggn(PAIR, loss, params, x, targets))
    assert relative_error(ravel_pytree(found)[0], true) < 1e-9


def test_the_empirical_diagonal_is_the_mean_square_of_the_whole_losses_gradients():
    params, x, targets = batch()

    def one(params, x, targets):
        one_each = jax.tree.map(lambda a: a[None], (x, targets))
        return LOSS.forward(MODEL.forward(params, one_each[0])[0], one_each[1])[0]

    each = jax.jit(jax.vmap(jax.grad(one), (None, 0, 0)))(params, x, targets)
    found = jax.jit(ggn_diagonal(MODEL, LOSS, Empirical()))(params, x, targets)
    assert relative_error(ravel_pytree(found)[0], ravel_pytree(jax.tree.map(lambda g: (g**2).mean(0), each))[0]) < 1e-9


@pytest.mark.parametrize("fisher", FISHERS, ids=str)
def test_kronecker_factors_take_trees_of_outputs(fisher):
    params, x, targets = batch()
    value, gradient, factors = jax.jit(kronecker_factors(MODEL, LOSS, fisher))(params, x, targets, key=KEY)
    expected = jax.jit(jaxbp.value_and_grad(MODEL, LOSS))(params, x, targets)
    assert relative_error(ravel_pytree((value, gradient))[0], ravel_pytree(expected)[0]) < 1e-9
    outputs, _ = MODEL.forward(params, x)
    _, kept = LOSS.forward(outputs, targets)
    count, column = fisher.columns(LOSS, kept, outputs, KEY)
    g = [column(i)[0] for i in range(count)]
    assert relative_error(jaxbp.leaves(MODEL, factors)["2.0"].outputs, sum(a.T @ a for a in g)) < 1e-9


@pytest.mark.parametrize("fisher", FISHERS, ids=str)
def test_what_is_taken_example_by_example_refuses_a_loss_that_mixes_them(fisher):
    params, x, targets = batch(PAIR)
    mixing, message = SumOfLosses([(InfoNCE(), 1.0)]), r"InfoNCE\(\).* mixes the examples of a batch"
    with pytest.raises(ValueError, match=message):
        ggn_diagonal(PAIR, InfoNCE(), fisher)
    with pytest.raises(ValueError, match=message):
        ggn_diagonal(PAIR, mixing, fisher)
    with pytest.raises(ValueError, match=message):
        kronecker_factors(PAIR, InfoNCE(), fisher)(params, x, targets, key=KEY)
