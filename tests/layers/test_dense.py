import chex
import jax
import jax.numpy as jnp
import pytest

from jaxbp import Dense, Glorot, He, LayerError, LeCun, Serial, check_layer
from tests.support.arrays import normal


@pytest.mark.parametrize("leading", [(4,), (2, 3)], ids=str)
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_dense_obeys_the_layer_laws(leading, inputs, outputs, bias):
    check_layer(Dense(outputs, bias), normal(*leading, inputs))


def test_dense_matches_a_case_worked_by_hand():
    params = {"weight": jnp.array([[1.0], [2.0]]), "bias": jnp.array([0.5])}
    layer, x, g = Dense(1), jnp.array([[3.0, 4.0], [1.0, 1.0]]), jnp.array([[10.0], [-1.0]])
    y, residuals = layer.forward(params, x)
    chex.assert_trees_all_equal(y, jnp.array([[11.5], [3.5]]))
    chex.assert_trees_all_equal(layer.input_gradient(params, residuals, g), jnp.array([[10.0, 20.0], [-1.0, -2.0]]))
    chex.assert_trees_all_equal(
        layer.param_gradient(params, residuals, g), {"weight": jnp.array([[29.0], [39.0]]), "bias": jnp.array([9.0])}
    )


def test_dense_sends_the_error_through_the_weights_it_is_given():
    layer, x, g = Dense(1), jnp.array([[3.0, 4.0]]), jnp.array([[10.0]])
    true = {"weight": jnp.array([[1.0], [2.0]]), "bias": jnp.zeros(1)}
    other = {"weight": jnp.array([[-1.0], [0.0]]), "bias": jnp.zeros(1)}
    _, residuals = layer.forward(true, x)
    chex.assert_trees_all_equal(layer.input_gradient(other, residuals, g), jnp.array([[-10.0, 0.0]]))


@pytest.mark.parametrize(
    ("initializer", "variance"), [(LeCun(), 1 / 300), (Glorot(), 2 / 500), (He(), 2 / 300)], ids=lambda v: str(v)
)
def test_initial_weights_have_the_variance_of_their_formula(initializer, variance):
    weight = initializer(jax.random.key(0), (300, 200), jnp.float32)
    assert abs(float(jnp.var(weight)) / variance - 1) < 0.05
    assert abs(float(jnp.mean(weight))) < 0.05 * variance**0.5


def test_dense_begins_with_zero_biases_in_the_dtype_of_its_input():
    params = Dense(2).init(jax.random.key(0), jax.ShapeDtypeStruct((1, 3), jnp.bfloat16))
    assert params["weight"].dtype == params["bias"].dtype == jnp.bfloat16
    assert not params["bias"].any()


def test_sums_of_bfloat16_are_taken_in_float32():
    ones = jnp.ones((4096, 1), jnp.bfloat16)  # a bfloat16 sum of ones stops at 256
    gradient = Dense(1).param_gradient(Dense(1).init(jax.random.key(0), ones), ones, ones)
    assert gradient["weight"] == 4096
    assert gradient["bias"] == 4096


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("outputs", [0, 2.5, "ten"])
def test_dense_refuses_a_number_of_outputs_that_is_not_positive_and_whole(outputs):
    with pytest.raises(ValueError, match=f"positive whole number of outputs, not {outputs!r}"):
        Dense(outputs)


def model_and_params():
    model = Serial(Dense(5), Serial(Dense(2)))
    return model, model.init(jax.random.key(0), jnp.ones((1, 3)))


def test_wrong_feature_count_names_the_path_and_both_shapes():
    model, params = model_and_params()
    with pytest.raises(
        LayerError, match=r'layer "0", Dense\(5\): expected 3 .*float32\[3, 5\], got 4 .*float32\[1, 4\]'
    ):
        model.forward(params, jnp.ones((1, 4)))


def test_wrong_rank_names_the_path_and_both_shapes():
    model, params = model_and_params()
    with pytest.raises(
        LayerError, match=r'layer "0", .*expected \[examples, ..., inputs\], got float32\[3\].*x\[None\]'
    ):
        model.forward(params, jnp.ones(3))


def test_integer_input_names_the_path_and_says_how_to_convert():
    model, params = model_and_params()
    with pytest.raises(TypeError, match=r'layer "0", .*floating-point input, got int32\[1, 3\]; .*astype'):
        model.forward(params, jnp.ones((1, 3), jnp.int32))


def test_no_input_features_is_an_error():
    with pytest.raises(LayerError, match=r"at least one input feature, got float32\[2, 0\]"):
        Dense(2).init(jax.random.key(0), jnp.ones((2, 0)))


def test_parameters_of_a_dense_layer_of_other_width_are_refused():
    _, params = model_and_params()
    wider = Serial(Dense(5), Serial(Dense(7)))
    with pytest.raises(
        LayerError,
        match=r'"1.0", Dense\(7\): expected parameters \{bias \[7\], weight \[inputs, 7\]\}, got .*float32\[5, 2\]',
    ):
        wider.forward(params, jnp.ones((1, 3)))


def test_a_missing_bias_is_an_error():
    model, params = model_and_params()
    with pytest.raises(
        LayerError,
        match=r'layer "0", .*expected parameters \{bias \[5\], weight \[inputs, 5\]\}, got \{weight: float32',
    ):
        model.forward(({"weight": params[0]["weight"]}, params[1]), jnp.ones((1, 3)))
