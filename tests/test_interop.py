import chex
import jax
import jax.numpy as jnp
import pytest

import jaxbp
from jaxbp import Dense, Dropout, FromAutodiff, LayerError, Repeat, Serial, Tanh, as_custom_vjp, check_layer
from tests.support.arrays import labels, normal

MODEL, X, Y = Serial(Dense(3), Tanh(), Dense(2)), normal(4, 3), labels(4, 2)
LOSS = jaxbp.SoftmaxCrossEntropy()


@pytest.fixture(scope="module")
def params():
    return MODEL.init(jax.random.key(0), X)


def cubic(params, x):
    return params["a"] * x**3


def draw(key, x):
    return {"a": jnp.ones(x.shape[-1], x.dtype)}


def test_jax_grad_of_a_wrapped_model_is_our_gradient(params):
    apply = as_custom_vjp(MODEL)
    theirs = jax.value_and_grad(lambda params: LOSS.forward(apply(params, X), Y)[0])(params)
    chex.assert_trees_all_close(theirs, jaxbp.value_and_grad(MODEL, LOSS)(params, X, Y), rtol=1e-6)


def test_a_wrapped_model_runs_our_backward_and_not_autodiff(params):
    class Doubled(Dense):
        def input_gradient(self, params, x, g):
            return 2 * super().input_gradient(params, x, g)

    ours = jax.grad(lambda x: as_custom_vjp(Doubled(2))(params[2], x).sum())(X)
    chex.assert_trees_all_close(ours, 2 * jax.grad(lambda x: Dense(2).forward(params[2], x)[0].sum())(X))


def test_a_wrapped_model_works_under_jit_and_vmap_and_with_a_key():
    dropped = Serial(Dropout(0.5), Dense(2))
    params, key = dropped.init(jax.random.key(0), X), jax.random.key(1)
    apply = as_custom_vjp(dropped)
    ours = jax.jit(jax.grad(lambda params: (apply(params, X, key) ** 2).sum()))(params)
    true = jax.grad(lambda params: (dropped.forward(params, X, key)[0] ** 2).sum())(params)
    chex.assert_trees_all_close(ours, true, rtol=1e-5)
    each = jax.vmap(jax.grad(lambda params, x: (apply(params, x) ** 2).sum()), (None, 0))(params, X[:, None])
    whole = jax.grad(lambda params: (apply(params, X) ** 2).sum())(params)
    chex.assert_trees_all_close(jax.tree.map(lambda a: a.sum(0), each), whole, rtol=1e-5, atol=1e-5)


def test_a_wrapped_model_takes_integer_input_and_trees():
    table = FromAutodiff(lambda params, at: params["weight"][at["token"]] * at["scale"], lambda key, x: {"weight": X})
    at = {"token": jnp.array([0, 2]), "scale": jnp.array([[1.0], [2.0]])}
    ours = jax.grad(lambda params: as_custom_vjp(table)(params, at).sum())({"weight": X})
    assert ours["weight"][:, 0].tolist() == [1, 0, 2, 0]


def test_any_function_is_a_layer():
    check_layer(FromAutodiff(jnp.sin), X)
    check_layer(FromAutodiff(cubic, draw), X)
    check_layer(Serial(Dense(3), Repeat(FromAutodiff(cubic, draw), 2)), X)


def test_a_function_that_names_rng_gets_the_key():
    def noisy(x, rng):
        return x if rng is None else x * jax.random.bernoulli(rng, 0.5, x.shape)

    layer = FromAutodiff(noisy)
    check_layer(layer, X, rng=jax.random.key(0))
    y, residuals = layer.forward((), jnp.ones((8, 8)), jax.random.key(0))
    chex.assert_trees_all_equal(layer.input_gradient((), residuals, jnp.ones((8, 8))), y)


def test_each_works_inside_the_other_under_jit_and_vmap(params):
    inner = FromAutodiff(as_custom_vjp(MODEL), MODEL.init)
    model = Serial(inner, Dense(2))
    both = (params, Dense(2).init(jax.random.key(1), normal(4, 2)))
    plain = Serial(MODEL, Dense(2))
    true = jaxbp.value_and_grad(plain, LOSS)(both, X, Y)
    gradient = jaxbp.value_and_grad(model, LOSS)
    chex.assert_trees_all_close(gradient(both, X, Y), true, rtol=1e-6)
    chex.assert_trees_all_close(jax.jit(gradient)(both, X, Y), true, rtol=1e-5, atol=1e-7)
    each = jax.vmap(gradient, (None, 0, 0))(both, X[:, None], Y[:, None])
    chex.assert_trees_all_close(jax.tree.map(lambda a: a.mean(0), each), true, rtol=1e-5, atol=1e-6)
    outer = as_custom_vjp(model)
    again = jax.jit(jax.value_and_grad(lambda both: LOSS.forward(outer(both, X), Y)[0]))(both)
    chex.assert_trees_all_close(again, true, rtol=1e-5, atol=1e-7)


def test_integer_input_of_a_function_has_no_gradient():
    layer = FromAutodiff(lambda x: x.astype(jnp.float32))
    _, residuals = layer.forward((), Y)
    assert layer.input_gradient((), residuals, jnp.ones(4)) is None


def test_a_function_of_parameters_needs_initial_ones():
    with pytest.raises(LayerError, match=r"the function takes params; give initial="):
        FromAutodiff(cubic).init(jax.random.key(0), X)


def test_a_default_argument_is_no_parameter():
    def scaled(x, factor=2.0):
        return factor * x

    check_layer(FromAutodiff(scaled), X)
