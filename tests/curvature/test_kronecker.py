import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import (
    BinaryCrossEntropy,
    Dense,
    HalfSquaredError,
    Huber,
    LayerError,
    MeanSquaredError,
    Serial,
    SoftmaxCrossEntropy,
)
from jaxbp.curvature.fisher import Empirical, Exact, MonteCarlo
from jaxbp.curvature.kfac import kfac
from jaxbp.curvature.kronecker import kfac_expand, kfac_reduce, kronecker_factors
from jaxbp.layers.batch_norm import BatchNorm
from jaxbp.layers.normalization import LayerNorm
from jaxbp.layers.spatial.convolution import Conv
from jaxbp.layers.spatial.pooling import GlobalAvgPool
from tests.support.networks import CONVOLUTIONAL, MLP, batch, brute_force, ggn_block, normal, relative_error

KEY = jax.random.key(3)
LINEAR = Serial(Dense(3), Dense(4, bias=False), Dense(2))


def factors_of(model, loss, fisher, params, x, y, share=kfac_expand, **arguments):
    run = jax.jit(kronecker_factors(model, loss, fisher, share))
    return jaxbp.leaves(model, run(params, x, y, **arguments)[2])


LOSSES = [
    (HalfSquaredError(), normal(4, 3, seed=1)),
    (MeanSquaredError(), normal(4, 3, seed=1)),
    (Huber(0.7), normal(4, 3, seed=1)),
    (BinaryCrossEntropy(), np.random.default_rng(0).uniform(size=(4, 3))),
    (SoftmaxCrossEntropy(), jnp.array([0, 2, 1, 1])),
    (SoftmaxCrossEntropy(smoothing=0.2), np.random.default_rng(0).uniform(size=(4, 3))),
    (SoftmaxCrossEntropy(ignored_label=1), jnp.array([0, 2, 1, 1])),
]


@pytest.mark.parametrize(("loss", "y"), LOSSES, ids=lambda v: str(v) if isinstance(v, jaxbp.Loss) else "")
def test_the_hessian_of_a_loss_and_its_root_are_those_of_jax(loss, y):
    z, y, weights = normal(4, 3), jnp.asarray(y), jnp.array([1.0, 2.0, 0.5, 0.0])
    _, kept = loss.forward(z, y, weights)
    true = jax.jit(jax.hessian(lambda z: loss.forward(z, y, weights)[0]))(z).reshape(12, 12)
    units = jnp.eye(12).reshape(12, 4, 3)
    hessian = jax.vmap(lambda v: loss.hessian(kept, v))(units).reshape(12, 12)
    root = jax.vmap(lambda v: loss.hessian_root(kept, v))(units).reshape(12, 12).T
    np.testing.assert_allclose(hessian, true, atol=1e-12)
    np.testing.assert_allclose(root @ root.T, true, atol=1e-12)


def test_a_loss_without_curvature_says_so():
    class Mine(jaxbp.ExampleLoss):
        def per_example(self, outputs, targets):
            return outputs.sum(1), outputs

        def scaled_gradient(self, residuals, scale):
            return scale * residuals

    params, x, _ = batch(MLP)
    with pytest.raises(NotImplementedError, match="define curvature"):
        kronecker_factors(MLP, Mine(), Exact())(params, x, jnp.zeros((4, 3)))


@pytest.mark.parametrize("loss", [HalfSquaredError(), SoftmaxCrossEntropy()], ids=str)
def test_factors_are_exact_for_one_example(loss):
    params, x, y = batch(MLP)
    y = y[:1] if isinstance(loss, SoftmaxCrossEntropy) else normal(1, 3)
    found = factors_of(MLP, loss, Exact(), params, x[:1], y)
    for path in ("0", "2"):
        true = ggn_block(MLP, loss, params, path, x[:1], y)
        assert relative_error(jnp.kron(*found[path]), true) < 1e-9


def test_factors_are_exact_for_deep_linear_networks():
    x, y = normal(5, 4), normal(5, 2)
    params = jax.jit(LINEAR.init)(KEY, x)
    found = factors_of(LINEAR, HalfSquaredError(), Exact(), params, x, y)
    for path in ("0", "1", "2"):
        true = ggn_block(LINEAR, HalfSquaredError(), params, path, x, y)
        assert relative_error(jnp.kron(*found[path]), true) < 1e-9


def test_expand_is_exact_where_each_position_has_its_own_loss():
    x, y = normal(3, 4, 3), normal(3, 4, 2)
    model = Serial(Dense(3), Dense(2))
    params = jax.jit(model.init)(KEY, x)
    found = factors_of(model, HalfSquaredError(), Exact(), params, x, y)
    for path in ("0", "1"):
        true = ggn_block(model, HalfSquaredError(), params, path, x, y)
        assert relative_error(jnp.kron(*found[path]), true) < 1e-9


def test_reduce_is_exact_where_positions_are_averaged():
    x, y = normal(3, 5, 5, 1), normal(3, 2)
    model = Serial(Conv(2, (3, 3), padding="VALID"), GlobalAvgPool(), Dense(2))
    params = jax.jit(model.init)(KEY, x)
    found = factors_of(model, HalfSquaredError(), Exact(), params, x, y, share=kfac_reduce)
    for path in ("0", "2"):
        true = ggn_block(model, HalfSquaredError(), params, path, x, y)
        assert relative_error(jnp.kron(*found[path]), true) < 1e-9


def test_factors_of_a_dense_layer_worked_by_hand():
    # Inputs 1 and 3, ½ squared error: A = mean of x² and x with the bias's 1, B = 1.
    params, x = ({"weight": jnp.array([[2.0]]), "bias": jnp.zeros(1)},), jnp.array([[1.0], [3.0]])
    value, gradient, (f,) = kronecker_factors(Serial(Dense(1)), HalfSquaredError(), Exact())(params, x, 2 * x + 1)
    np.testing.assert_allclose(f.inputs, [[5, 2], [2, 1]])
    np.testing.assert_allclose(f.outputs, [[1]])
    np.testing.assert_allclose((value, gradient[0]["weight"][0, 0], gradient[0]["bias"][0]), (0.5, -2, -1))


def test_monte_carlo_factors_tend_to_the_exact_ones():
    params, x, y = batch(CONVOLUTIONAL)
    exact = factors_of(CONVOLUTIONAL, SoftmaxCrossEntropy(), Exact(), params, x, y)
    drawn = factors_of(CONVOLUTIONAL, SoftmaxCrossEntropy(), MonteCarlo(4000), params, x, y, key=KEY)
    for path in ("0", "3", "5"):
        assert relative_error(drawn[path].inputs, exact[path].inputs) < 1e-12
        assert relative_error(drawn[path].outputs, exact[path].outputs) < 0.1


def test_empirical_factors_are_made_of_the_gradients_of_single_examples():
    params, x, y = batch(MLP)
    found = factors_of(MLP, SoftmaxCrossEntropy(), Empirical(), params, x, y)
    bias = brute_force(MLP, params, x, y)[0]["bias"]  # G_n of a bias is its g
    assert relative_error(found["0"].outputs, bias.T @ bias / 4) < 1e-9


def test_the_gradient_that_comes_with_the_factors_is_the_gradient():
    params, x, y = batch(CONVOLUTIONAL)
    value, gradient, _ = jax.jit(kronecker_factors(CONVOLUTIONAL, SoftmaxCrossEntropy(), Empirical()))(params, x, y)
    expected = jax.jit(jaxbp.value_and_grad(CONVOLUTIONAL, SoftmaxCrossEntropy()))(params, x, y)
    assert relative_error((value, gradient), expected) < 1e-12


def test_factors_of_a_part_of_the_batch_come_with_the_gradient_of_the_whole():
    params, x, y = batch(MLP)
    loss, weights = SoftmaxCrossEntropy(), jnp.array([1.0, 2.0, 0.5, 3.0])
    part = jax.jit(kronecker_factors(MLP, loss, Exact(), examples=2))(params, x, y, weights=weights)
    alone = jax.jit(kronecker_factors(MLP, loss, Exact()))(params, x[:2], y[:2], weights=weights[:2])
    assert relative_error(part[:2], jax.jit(jaxbp.value_and_grad(MLP, loss))(params, x, y, weights=weights)) < 1e-12
    assert relative_error(part[2], alone[2]) < 1e-12
    with pytest.raises(ValueError, match="at least one example for the factors"):
        kronecker_factors(MLP, loss, Exact(), examples=0)


def test_a_layer_without_factors_is_refused_by_name_before_anything_runs():
    model, x = Serial(Dense(3), Serial(LayerNorm())), normal(4, 3)
    params = jax.jit(model.init)(KEY, x)
    for call in (
        lambda: kronecker_factors(model, SoftmaxCrossEntropy(), Exact())(params, x, jnp.zeros(4, int)),
        lambda: kfac(model, 0.1).init(params),
    ):
        with pytest.raises(LayerError, match=r'layer "1.0", LayerNorm\(\): has parameters but no Kronecker factors'):
            call()


def test_a_grouped_convolution_is_refused_by_name():
    model, x = Serial(Conv(4, (2,), groups=2), jaxbp.Flatten()), normal(2, 3, 2)
    params = jax.jit(model.init)(KEY, x)
    with pytest.raises(LayerError, match=r'layer "0", Conv.*no Kronecker factors'):
        kronecker_factors(model, SoftmaxCrossEntropy(), Exact())(params, x, jnp.zeros(2, int))


def test_a_layer_that_mixes_examples_is_refused_by_name():
    model = Serial(Dense(3), BatchNorm())
    for call in (lambda: kfac(model, 0.1), lambda: kronecker_factors(model, SoftmaxCrossEntropy(), Exact())):
        with pytest.raises(LayerError, match=r'layer "1", BatchNorm\(\): mixes'):
            call()


def test_monte_carlo_needs_a_key_and_a_sample():
    params, x, y = batch(MLP)
    with pytest.raises(ValueError, match="give key"):
        kronecker_factors(MLP, SoftmaxCrossEntropy(), MonteCarlo())(params, x, y)
    with pytest.raises(ValueError, match="at least one sample"):
        MonteCarlo(0)
