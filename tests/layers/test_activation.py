from math import log

import chex
import jax
import jax.numpy as jnp
import pytest

from jaxbp import (
    ELU,
    GELU,
    LayerError,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Serial,
    Sigmoid,
    SiLU,
    Softcap,
    Softmax,
    Softplus,
    Tanh,
    check_layer,
)
from tests.support.arrays import normal

ALL = [
    Sigmoid(),
    Tanh(),
    ReLU(),
    LeakyReLU(),
    LeakyReLU(0.5),
    ELU(),
    ELU(alpha=2.0),
    Softplus(),
    SiLU(),
    GELU(),
    GELU(approximate=True),
    Softcap(2.0),
    Softmax(),
    LogSoftmax(),
]


@pytest.mark.parametrize("layer", ALL, ids=str)
def test_activations_obey_the_layer_laws(layer):
    check_layer(layer, 3 * normal(4, 3))


@pytest.mark.parametrize("layer", [Softmax(axis=-2), LogSoftmax(axis=1)], ids=str)
def test_the_softmax_may_run_over_another_feature_axis(layer):
    check_layer(layer, normal(2, 3, 2))
    chex.assert_trees_all_close(Softmax(axis=-2).forward((), normal(2, 3, 2))[0].sum(1), jnp.ones((2, 2)), rtol=1e-6)


BY_HAND = {  # layer: z, g, y, ∂J/∂z
    Sigmoid(): ([0, log(3)], [8, 16], [0.5, 0.75], [2, 3]),
    Tanh(): ([0, log(2)], [7, 100], [0, 0.6], [7, 64]),
    ReLU(): ([-2, 3], [5, 7], [0, 3], [0, 7]),
    LeakyReLU(0.5): ([-2, 3], [5, 7], [-1, 3], [2.5, 7]),
    ELU(2.0): ([-log(4), 3], [5, 7], [-1.5, 3], [2.5, 7]),
    Softplus(): ([0, log(3)], [8, 4], [log(2), log(4)], [4, 3]),
    SiLU(): ([0, log(3)], [8, 16], [0, 0.75 * log(3)], [4, 12 + 3 * log(3)]),
    GELU(): ([0, 1], [8, 1], [0, 0.8413447], [4, 0.8413447 + 0.2419707]),
    GELU(True): ([0, 1], [8, 1], [0, 0.8411920], [4, 1.0829641]),
    Softcap(5.0): ([0, 5 * log(2)], [7, 100], [0, 3], [7, 64]),
    Softmax(): ([0, log(3)], [4, 0], [0.25, 0.75], [0.75, -0.75]),
    LogSoftmax(): ([0, log(3)], [4, 0], [-log(4), log(0.75)], [3, -3]),
}


@pytest.mark.parametrize(("layer", "case"), BY_HAND.items(), ids=[str(layer) for layer in BY_HAND])
def test_activations_match_a_case_worked_by_hand(layer, case):
    z, g, y, dz = (jnp.array([row], jnp.float32) for row in case)
    ours, residuals = layer.forward((), z)
    chex.assert_trees_all_close(ours, y, rtol=1e-6, atol=1e-7)
    chex.assert_trees_all_close(layer.input_gradient((), residuals, g), dz, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("layer", ALL, ids=str)
def test_activations_stay_finite_at_both_ends_of_float32(layer):
    z = jnp.array([[-1e30, -1e4, -100.0], [100.0, 1e4, 1e30]])
    y, residuals = layer.forward((), z)
    chex.assert_tree_all_finite((y, layer.input_gradient((), residuals, jnp.ones_like(z))))


@pytest.mark.parametrize("layer", ALL, ids=str)
def test_the_slope_at_the_kink_is_that_of_jax_grad(layer):
    z, g = jnp.zeros((4, 3)), normal(4, 3)
    _, pull_back = jax.vjp(lambda z: layer.forward((), z)[0], z)
    chex.assert_trees_all_close(layer.input_gradient((), layer.forward((), z)[1], g), *pull_back(g), atol=1e-6)


@pytest.mark.parametrize("layer", ALL, ids=str)
def test_an_activation_keeps_one_array_of_the_size_of_its_output(layer):
    y, residuals = layer.forward((), normal(4, 3))
    chex.assert_equal_shape([y, residuals])


@pytest.mark.parametrize("layer", ALL, ids=str)
def test_activations_refuse_integers(layer):
    with pytest.raises(LayerError, match=r'layer "0", .*expected floating-point input, got int32\[4, 3\]'):
        Serial(layer).forward(((),), jnp.ones((4, 3), jnp.int32))


@pytest.mark.parametrize("layer", [Softmax(0), LogSoftmax(-2), Softmax(2)], ids=str)
def test_the_softmax_refuses_the_axis_of_examples_and_axes_that_are_not_there(layer):
    with pytest.raises(LayerError, match=r"to be a feature axis of \[examples, ...\], got float32\[4, 3\]"):
        layer.forward((), normal(4, 3))


def test_a_slope_of_zero_is_refused_in_favour_of_relu():
    with pytest.raises(ValueError, match=r"positive slope, not 0.0; slope 0 is ReLU\(\)"):
        LeakyReLU(0.0)


def test_an_alpha_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"positive alpha, not 0.0"):
        ELU(0.0)


@pytest.mark.parametrize("cap", [0.0, -1.0, float("inf"), float("nan")])
def test_a_cap_must_be_positive_and_finite(cap):
    with pytest.raises(ValueError, match="Softcap needs a positive, finite cap, not"):
        Softcap(cap)


def test_softcap_leaves_small_numbers_as_they_are_and_never_exceeds_the_cap():
    y, _ = Softcap(30.0).forward((), jnp.array([[0.01, -1e6, 1e6]]))
    chex.assert_trees_all_close(y, jnp.array([[0.01, -30.0, 30.0]]), rtol=1e-6)
