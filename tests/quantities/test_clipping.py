import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Dense, LayerError, Serial, SoftmaxCrossEntropy
from jaxbp.layers.batch_norm import BatchNorm
from jaxbp.quantities.clipping import clipped_value_and_grad
from tests.support.networks import CONVOLUTIONAL, DEEP, MLP, N, batch, brute_force, flat, relative_error

LOSS = SoftmaxCrossEntropy()


def rescaled(tree, factor):
    """Σ_n c_n G_n / N."""
    return jax.tree.map(lambda a: jnp.tensordot(factor, a, 1) / N, tree)


@pytest.mark.parametrize("model", [MLP, DEEP, CONVOLUTIONAL], ids=["mlp", "deep", "conv"])
def test_the_clipped_gradient_is_clip_then_sum(model):
    params, x, y = batch(model)
    true = brute_force(model, params, x, y)
    size = jnp.linalg.norm(flat(true), axis=1)
    limit = float(jnp.median(size))
    value, gradient, norms = jax.jit(clipped_value_and_grad(model, LOSS, limit))(params, x, y)
    assert relative_error(norms, size) < 1e-9
    assert relative_error(gradient, rescaled(true, jnp.minimum(1, limit / size))) < 1e-9
    assert relative_error(value, jax.jit(jaxbp.value_and_grad(model, LOSS))(params, x, y)[0]) < 1e-9


def test_limits_by_layer_clip_each_layer_by_itself():
    params, x, y = batch(DEEP)
    limits = {"0": 0.1, "1.body.0": 0.2, "2.body.0": 0.05, "2.body.1": 1e3, "3": 0.3}
    true = brute_force(DEEP, params, x, y)
    _, gradient, norms = jax.jit(clipped_value_and_grad(DEEP, LOSS, limits))(params, x, y)
    repeated, once = true[1]["body"][0], gradient[1]["body"][0]  # all turns are one layer
    size = jnp.linalg.norm(flat(repeated), axis=1)
    assert relative_error(norms["1.body.0"], size) < 1e-9
    assert relative_error(once, rescaled(repeated, jnp.minimum(1, 0.2 / size))) < 1e-9
    size = jnp.linalg.norm(flat(true[3]), axis=1)
    assert relative_error(gradient[3], rescaled(true[3], jnp.minimum(1, 0.3 / size))) < 1e-9


def test_a_clipped_step_worked_by_hand():
    # Gradients 6 and -4 (see test_per_example); clipped at 5 they are 5 and -4, and their mean is ½.
    model, params = Serial(Dense(1, bias=False)), ({"weight": jnp.ones((1, 1))},)
    x, t = jnp.array([[3.0], [4.0]]), jnp.array([[1.0], [5.0]])
    value, gradient, norms = clipped_value_and_grad(model, jaxbp.HalfSquaredError(), 5.0)(params, x, t)
    np.testing.assert_allclose((value, gradient[0]["weight"][0, 0]), (1.25, 0.5))
    np.testing.assert_allclose(norms, [6, 4])


def test_an_example_of_weight_zero_leaves_no_trace():
    params, x, y = batch(MLP)
    private = jax.jit(clipped_value_and_grad(MLP, LOSS, 0.5, expected=2.5))
    padded = private(params, x, y, weights=jnp.array([1.0, 1.0, 0.0, 0.0]))
    alone = private(params, x[:2], y[:2])
    assert relative_error(padded[:2], alone[:2]) < 1e-12


def test_noise_has_the_promised_deviation_and_is_the_same_for_the_same_key():
    params, x, y = batch(MLP)
    clipped = jax.jit(clipped_value_and_grad(MLP, LOSS, 0.5))(params, x, y)[1]
    noisy = jax.jit(clipped_value_and_grad(MLP, LOSS, 0.5, noise=2.0))
    keys = jax.random.split(jax.random.key(0), 100)
    many = jax.jit(jax.vmap(lambda key: noisy(params, x, y, noise_key=key)[1]))(keys)
    noise = jnp.concatenate([(a - b).ravel() for a, b in zip(*map(jax.tree.leaves, (many, clipped)), strict=True)])
    assert abs(float(noise.std()) / (2.0 * 0.5 / N) - 1) < 0.03  # 5300 numbers: a deviation of 1 %
    assert abs(float(noise.mean())) < 0.02
    assert relative_error(noisy(params, x, y, noise_key=keys[3])[1], jax.tree.map(lambda a: a[3], many)) < 1e-12


def test_noise_for_limits_by_layer_follows_the_limit_of_the_whole():
    params, x, y = batch(MLP)
    keys = jax.random.split(jax.random.key(0), 100)
    private = clipped_value_and_grad(MLP, LOSS, {"0": 3.0, "2": 4.0}, noise=1.0)
    many = jax.jit(jax.vmap(lambda key: private(params, x, y, noise_key=key)[1]))(keys)
    noise = jnp.concatenate([(a - a.mean(0)).ravel() for a in jax.tree.leaves(many)])
    assert abs(float(noise.std()) / (5.0 / N) - 1) < 0.03


def test_noise_without_a_key_is_refused():
    params, x, y = batch(MLP)
    with pytest.raises(ValueError, match="noise_key"):
        clipped_value_and_grad(MLP, LOSS, 1.0, noise=1.0)(params, x, y)


@pytest.mark.parametrize(("limit", "noise"), [(0.0, 1.0), (-1.0, 0.0), (1.0, -1.0), (float("nan"), 0.0)])
def test_limits_must_be_positive_and_noise_not_negative(limit, noise):
    with pytest.raises(ValueError, match="positive limits"):
        clipped_value_and_grad(MLP, LOSS, limit, noise)


def test_limits_name_layers_that_exist_and_all_that_have_parameters():
    with pytest.raises(ValueError, match='no layer "7"'):
        clipped_value_and_grad(MLP, LOSS, {"7": 1.0})
    params, x, y = batch(MLP)
    with pytest.raises(ValueError, match=r"\['0', '2'\], got them for \['0'\]"):
        clipped_value_and_grad(MLP, LOSS, {"0": 1.0})(params, x, y)


def test_clipping_refuses_layers_that_mix_examples():
    with pytest.raises(LayerError, match='layer "0"'):
        clipped_value_and_grad(Serial(BatchNorm(), Dense(2)), LOSS, 1.0)
