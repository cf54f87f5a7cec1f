from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Dense, Layer, LayerError, Serial, SoftmaxCrossEntropy
from jaxbp.layers.batch_norm import BatchNorm
from jaxbp.quantities.ghost_norms import per_example_layer_norms, per_example_norms, prefers_gram
from jaxbp.quantities.gradient_statistics import gradient_second_moment, gradient_variance, noise_scale, signal_to_noise
from jaxbp.quantities.per_example import per_example_gradient, per_example_gradients
from jaxbp.quantities.tangent_kernel import gram_matrix, tangent_kernel
from tests.support.networks import (
    CONVOLUTIONAL,
    DEEP,
    MLP,
    SEQUENCE,
    batch,
    brute_force,
    flat,
    quantity,
    relative_error,
)

EVERY = {
    "individual": per_example_gradients,
    "norms": per_example_norms,
    "layers": per_example_layer_norms,
    "gram": gram_matrix,
    "second": gradient_second_moment,
    "variance": gradient_variance,
    "signal": signal_to_noise,
    "scale": noise_scale,
}


def turned(model, tree):
    """Inside a `Repeat` answers are [turns, n, ...]; here they are [n, turns, ...]."""
    if model is not DEEP:
        return tree
    swap = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), tree[1])
    return (tree[0], swap, *tree[2:])


@pytest.mark.parametrize("model", [MLP, DEEP, CONVOLUTIONAL, SEQUENCE], ids=["mlp", "deep", "conv", "sequence"])
def test_quantities_of_single_examples_are_those_of_jax_grad_one_by_one(model):
    params, x, y = batch(model)
    true = brute_force(model, params, x, y)
    _, found = jax.jit(jaxbp.value_and_quantities(model, SoftmaxCrossEntropy(), EVERY))(params, x, y)
    g = flat(true)
    n, mean = len(g), g.mean(0)
    assert relative_error(turned(model, found["individual"]), true) < 1e-9
    assert relative_error(found["norms"], jnp.linalg.norm(g, axis=1)) < 1e-9
    assert relative_error(found["gram"], g @ g.T) < 1e-9
    assert relative_error(found["second"], jax.tree.map(lambda a: (a**2).mean(0), true)) < 1e-9
    assert relative_error(found["variance"], jax.tree.map(lambda a: a.var(0), true)) < 1e-9
    spread = np.var(g, axis=0, ddof=1).sum()
    assert relative_error(found["scale"].noise, spread) < 1e-9
    assert relative_error(found["scale"].signal, mean @ mean - spread / n) < 1e-9
    assert relative_error(found["scale"].scale, spread / (mean @ mean - spread / n)) < 1e-9
    first = [a.reshape(n, -1) for a in jax.tree.leaves(true[0])]
    assert relative_error(found["layers"][0], jnp.linalg.norm(jnp.concatenate(first, 1), axis=1)) < 1e-9
    for s, a in zip(jax.tree.leaves(found["signal"]), jax.tree.leaves(true), strict=True):
        moving = np.abs(a.mean(0)) > 1e-9
        assert relative_error(s[moving], (a.mean(0) ** 2 / a.var(0))[moving]) < 1e-6


def test_convolutions_take_both_forms_of_the_norm():
    shapes = {"few channels": ((4, 36, 9), (4, 36, 2)), "many channels": ((4, 4, 80), (4, 4, 90))}
    gram_form = {name: prefers_gram(*map(jnp.zeros, pair)) for name, pair in shapes.items()}
    assert gram_form == {"few channels": False, "many channels": True}


def test_per_example_quantities_of_a_dense_layer_worked_by_hand():
    # y = x w, l = ½ (y - t)², w = 1: errors y - t = 2 and -1, G_n = error * x = 6 and -4.
    model, params = Serial(Dense(1, bias=False)), ({"weight": jnp.ones((1, 1))},)
    x, t = jnp.array([[3.0], [4.0]]), jnp.array([[1.0], [5.0]])
    _, found = jaxbp.value_and_quantities(model, jaxbp.HalfSquaredError(), EVERY)(params, x, t)
    np.testing.assert_allclose(found["individual"][0]["weight"].ravel(), [6, -4])
    np.testing.assert_allclose(found["norms"], [6, 4])
    np.testing.assert_allclose(found["gram"], [[36, -24], [-24, 16]])
    np.testing.assert_allclose(found["variance"][0]["weight"], [[25]])  # mean 1, deviations ±5
    np.testing.assert_allclose(found["signal"][0]["weight"], [[1 / 25]])
    np.testing.assert_allclose(found["scale"], (50, -24, -50 / 24))


def test_the_mean_of_individual_gradients_is_the_gradient_also_with_weights():
    params, x, y = batch(MLP)
    weights = jnp.array([1.0, 0.0, 2.0, 0.5])
    _, found = jaxbp.value_and_quantities(
        MLP, SoftmaxCrossEntropy(), {"one": per_example_gradients, "mean": jaxbp.param_gradient}
    )(params, x, y, weights=weights)
    assert relative_error(jax.tree.map(lambda a: a.mean(0), found["one"]), found["mean"]) < 1e-9


def test_the_tangent_kernel_is_that_of_the_jacobian():
    params, x, _ = batch(CONVOLUTIONAL)
    jacobian = jax.jit(jax.jacrev(lambda params: CONVOLUTIONAL.forward(params, x)[0]))(params)
    rows = jnp.concatenate([a.reshape(12, -1) for a in jax.tree.leaves(jacobian)], 1)
    found = jax.jit(lambda params: tangent_kernel(CONVOLUTIONAL, params, x))(params)
    assert found.shape == (4, 3, 4, 3)
    assert relative_error(found.reshape(12, 12), rows @ rows.T) < 1e-9


@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_layer_that_mixes_examples_is_refused_by_name_before_anything_runs(name):
    model = Serial(Dense(3), Serial(BatchNorm()), Dense(2))
    with pytest.raises(LayerError, match=r'layer "1.0", BatchNorm\(\): mixes the examples'):
        jaxbp.value_and_quantities(model, SoftmaxCrossEntropy(), {"it": EVERY[name]})


def test_a_bare_visit_refuses_mixing_layers_too():
    model, x = Serial(BatchNorm()), jnp.ones((3, 2))
    params = model.init(jax.random.key(0), x)
    _, residuals = model.forward(params, x)
    with pytest.raises(LayerError, match=r'layer "0", BatchNorm\(\): mixes the examples'):
        jaxbp.sweep(model, params, residuals, x, visit=per_example_gradient)


@dataclass(frozen=True)
class KeepsTheMean(Layer):
    """y = θ x, and a residual that belongs to the batch."""

    def init(self, key, x):
        return {"scale": jnp.ones(())}

    def forward(self, params, x, rng=None):
        return params["scale"] * x, (x, jnp.mean(x))

    def input_gradient(self, params, residuals, g):
        return params["scale"] * g

    def param_gradient(self, params, residuals, g):
        return {"scale": jnp.sum(residuals[0] * g)}


@dataclass(frozen=True)
class TimeFirst(Dense):
    """A dense layer that keeps its input with time in front."""

    def forward(self, params, x, rng=None):
        y, x = super().forward(params, x, rng)
        return y, jnp.swapaxes(x, 0, 1)

    def input_gradient(self, params, residuals, g):
        return super().input_gradient(params, jnp.swapaxes(residuals, 0, 1), g)

    def param_gradient(self, params, residuals, g):
        return super().param_gradient(params, jnp.swapaxes(residuals, 0, 1), g)

    def affine(self, params, residuals, g):
        return super().affine(params, jnp.swapaxes(residuals, 0, 1), g)


@pytest.mark.parametrize("steps", [3, 4])
def test_residuals_that_begin_with_time_are_not_taken_for_examples(steps):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, steps, 5)))
    labels = jnp.zeros((4, steps), int)
    usual, turned = Serial(Dense(3)), Serial(TimeFirst(3))
    params = usual.init(jax.random.key(0), x)
    assert (
        relative_error(
            quantity(turned, per_example_norms, params, x, labels),
            quantity(usual, per_example_norms, params, x, labels),
        )
        < 1e-12
    )


def test_a_layer_with_residuals_of_the_whole_batch_is_refused_by_name():
    params, x, y = (KeepsTheMean().init(None, None),), jnp.ones((4, 3)), jnp.zeros(4, int)
    with pytest.raises(LayerError, match=r'layer "0", KeepsTheMean\(\): keeps float64\[\] for the whole batch of 4'):
        quantity(Serial(KeepsTheMean()), per_example_norms, params, x, y)


def test_the_noise_scale_refuses_a_batch_of_one():
    params, x, y = batch(MLP)
    with pytest.raises(ValueError, match="at least two"):
        quantity(MLP, noise_scale, params, x[:1], y[:1])
