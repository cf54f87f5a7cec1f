import chex
import jax
import jax.numpy as jnp
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxbp import Dense, LayerError, ReLU, check_layer
from jaxbp.layers.spatial.convolution import Conv, ConvTranspose

LAYERS = pytest.mark.parametrize("kind", [Conv, ConvTranspose])


def normal(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def against_vjp(layer, x):
    """Both gradients against jax.vjp of forward in float64, without the checker's other laws: one compile a case."""

    @jax.jit
    def pairs(params, x, seed):
        y, pull, residuals = jax.vjp(layer.forward, params, x, has_aux=True)
        g = jax.random.normal(seed, y.shape, y.dtype)
        d_params, dx = pull(g)
        return (layer.input_gradient(params, residuals, g), layer.param_gradient(params, residuals, g)), (dx, d_params)

    with jax.enable_x64(True):
        x = jnp.asarray(x, jnp.float64)
        chex.assert_trees_all_close(
            *pairs(layer.init(jax.random.key(1), x), x, jax.random.key(2)), rtol=1e-10, atol=1e-10
        )


@LAYERS
@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"window": (3, 3)}, (2, 5, 4, 2)),
        ({"window": (3, 2), "stride": (2, 1), "padding": "VALID", "bias": False}, (2, 5, 4, 2)),
        ({"window": (3,), "stride": 2, "dilation": 2, "padding": ((1, 2),), "groups": 2}, (2, 7, 2)),
    ],
    ids=str,
)
def test_convolutions_obey_the_layer_laws(kind, settings, shape):
    check_layer(kind(4, **settings), normal(shape))


axis = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(3, 6))


@settings(max_examples=16, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from([Conv, ConvTranspose]),
    axes=st.lists(axis, min_size=1, max_size=2),
    padding=st.sampled_from(["SAME", "VALID", (1, 0), (0, 2), (1, -1)]),
    channels=st.sampled_from([(1, 1, 2), (2, 2, 2), (2, 2, 4), (4, 2, 2), (8, 1, 8)]),
)
def test_gradients_are_the_vjp_for_any_geometry(kind, axes, padding, channels):
    window, stride, dilation, grid = zip(*axes, strict=True)
    inputs, groups, outputs = channels
    pairs = padding if isinstance(padding, str) else (padding,) * len(axes)
    layer = kind(outputs, window, stride, pairs, dilation, groups)
    x = normal((2, *grid, inputs))
    try:
        layer.init(jax.random.key(0), x)
    except LayerError:
        assume(False)
    against_vjp(layer, x)


@LAYERS
def test_three_axes_obey_the_vjp_too(kind):
    against_vjp(kind(4, (2, 1, 2), (1, 2, 1)), normal((2, 3, 2, 3, 2)))


def test_conv_matches_a_case_worked_by_hand():
    layer = Conv(1, (2,), padding="VALID")
    params = {"weight": jnp.array([10.0, 1.0]).reshape(2, 1, 1), "bias": jnp.array([0.5])}
    x, g = jnp.array([1.0, 2.0, 3.0]).reshape(1, 3, 1), jnp.array([1.0, 100.0]).reshape(1, 2, 1)
    y, residuals = layer.forward(params, x)
    assert y.ravel().tolist() == [12.5, 23.5]
    assert layer.input_gradient(params, residuals, g).ravel().tolist() == [10.0, 1001.0, 100.0]
    gradient = layer.param_gradient(params, residuals, g)
    assert gradient["weight"].ravel().tolist() == [201.0, 302.0]
    assert gradient["bias"].tolist() == [101.0]


def test_conv_transpose_matches_a_case_worked_by_hand():
    layer = ConvTranspose(1, (2,), stride=2)
    params = {"weight": jnp.array([10.0, 1.0]).reshape(2, 1, 1), "bias": jnp.array([0.5])}
    x, g = jnp.array([1.0, 2.0]).reshape(1, 2, 1), jnp.array([1.0, 10.0, 100.0, 1000.0]).reshape(1, 4, 1)
    y, residuals = layer.forward(params, x)
    assert y.ravel().tolist() == [10.5, 1.5, 20.5, 2.5]
    assert layer.input_gradient(params, residuals, g).ravel().tolist() == [20.0, 2000.0]
    gradient = layer.param_gradient(params, residuals, g)
    assert gradient["weight"].ravel().tolist() == [201.0, 2010.0]
    assert gradient["bias"].tolist() == [1111.0]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Conv(4, (3, 2), stride=(2, 1), dilation=(1, 2)), (3, 5, 6, 2)),
        (ConvTranspose(4, (3, 2), stride=(2, 1), dilation=(1, 2)), (3, 5, 6, 2)),
        (ConvTranspose(3, (4,), stride=3, padding=((1, -2),)), (3, 5, 2)),
        (Dense(4), (3, 2)),
        (Dense(4), (3, 5, 2)),
    ],
    ids=str,
)
def test_affine_gives_the_two_factors_of_the_weight_gradient(layer, shape):
    x = normal(shape)
    params = layer.init(jax.random.key(1), x)
    y, residuals = layer.forward(params, x)
    g = normal(y.shape, seed=3)
    a, b = layer.affine(params, residuals, g)
    assert a.shape[:2] == b.shape[:2]
    assert a.shape[0] == shape[0]
    gradient = layer.param_gradient(params, residuals, g)
    product = jnp.einsum("nti,nto->io", a, b).reshape(params["weight"].shape)
    chex.assert_trees_all_close(product, gradient["weight"], rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(jnp.sum(b, (0, 1)), gradient["bias"], rtol=1e-4, atol=1e-4)


def test_layers_without_a_pair_of_factors_answer_none():
    x = normal((2, 4, 4, 2))
    assert ReLU().affine((), x, x) is None
    for kind in (Conv, ConvTranspose):
        layer = kind(2, (3, 3), groups=2)
        assert layer.affine(layer.init(jax.random.key(0), x), x, x) is None


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (Conv(4, (5, 5), padding="VALID"), (2, 4, 6, 1), r"window spans \[5, 5\].*\[4, 6\]"),
        (Conv(4, (3,), dilation=4, padding=((1, 1),)), (2, 6, 1), r"window spans \[9\].*\[8\]"),
        (Conv(4, (3, 3), groups=2), (2, 6, 6, 3), "channels that 2 groups divide"),
        (Conv(4, (3, 3)), (6, 6, 3), r"expected \[examples, height, width, channels\]"),
        (Conv(4, (3,)), (2, 6, 6, 3), r"expected \[examples, height, channels\]"),
        (Conv(4, (3, 3)), (2, 0, 6, 3), "at least one position"),
        (ConvTranspose(4, (3, 3), padding=((2, 2), (0, 0))), (2, 1, 3, 3), r"leaves \[-1, 5\] positions"),
    ],
    ids=str,
)
def test_an_input_that_does_not_fit_is_refused(layer, shape, message):
    with pytest.raises(LayerError, match=message):
        layer.init(jax.random.key(0), normal(shape))


@LAYERS
def test_integers_are_refused(kind):
    with pytest.raises(LayerError, match="floating-point"):
        kind(4, (3, 3)).init(jax.random.key(0), jnp.zeros((2, 5, 5, 1), int))


@LAYERS
def test_parameters_of_another_model_are_refused(kind):
    layer, x = kind(4, (3, 3)), normal((2, 5, 5, 2))
    params = layer.init(jax.random.key(0), x)
    with pytest.raises(LayerError, match=r"weight \[3, 3, 3, 4\]\} for float32\[2, 5, 5, 3\]"):
        layer.forward(params, normal((2, 5, 5, 3)))
    with pytest.raises(LayerError, match=r"parameters \{bias \[4\], weight \[3, 3, 2, 4\]\}.*got \{weight"):
        layer.forward({"weight": params["weight"]}, x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": 0, "window": (3,)}, "positive number of features"),
        ({"features": 4, "window": (3,), "groups": 3}, "its groups divide"),
        ({"features": 4, "window": 3}, "window of one to three sizes"),
        ({"features": 4, "window": (0, 3)}, "positive window sizes"),
        ({"features": 4, "window": (3, 3), "stride": 0}, "positive stride"),
        ({"features": 4, "window": (3, 3), "dilation": (1,)}, "positive dilation for each axis"),
        ({"features": 4, "window": (3, 3), "padding": "same"}, '"SAME", "VALID" or pairs'),
        ({"features": 4, "window": (3, 3), "padding": ((1, 1),)}, r"padding \(before, behind\) for each axis"),
    ],
)
@LAYERS
@pytest.mark.usefixtures("unchecked")
def test_settings_that_make_no_sense_are_refused_at_once(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


@pytest.mark.usefixtures("unchecked")
def test_a_layer_is_hashable_whatever_sequences_it_was_given():
    assert hash(Conv(4, [3, 3], [1, 1], [[0, 1], [1, 0]])) == hash(Conv(4, (3, 3), (1, 1), ((0, 1), (1, 0))))
