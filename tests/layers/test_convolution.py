import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxbp import Dense, LayerError, Relu, check_layer
from jaxbp.layers import correlation, cpu, routes
from jaxbp.layers.convolution import Conv, ConvTranspose

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


@LAYERS
@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((4, 6, 5, 8), {"features": 8, "window": (3, 3), "stride": 2}),
        ((4, 6, 5, 8), {"features": 8, "window": (1, 1), "stride": 2}),
        ((4, 6, 5, 8), {"features": 8, "window": (2, 3), "stride": (3, 1), "padding": ((0, 1), (2, -1))}),
        ((4, 6, 5, 1), {"features": 3, "window": (3, 3)}),
        ((4, 6, 5, 4), {"features": 4, "window": (3, 2), "stride": (1, 2), "groups": 4}),
        ((4, 6, 5, 4), {"features": 8, "window": (3, 2), "dilation": 2, "groups": 4}),
        ((4, 6, 5, 4), {"features": 6, "window": (3, 3), "stride": 2, "groups": 2}),
        ((4, 3, 4, 5, 2), {"features": 3, "window": (2, 3, 2), "stride": (1, 2, 3)}),
        ((4, 6, 5, 3), {"features": 2, "window": (2, 3), "dilation": (3, 2), "padding": ((3, 1), (1, 2))}),
        ((4, 6, 7, 3), {"features": 2, "window": (3, 2), "dilation": (1, 3), "padding": "VALID"}),
        ((4, 6, 5, 2), {"features": 3, "window": (2, 2), "dilation": (1, 2), "stride": (2, 1)}),
    ],
    ids=str,
)
@pytest.mark.parametrize("narrow", [True, False])
def test_every_route_gives_what_the_direct_convolution_gives(kind, shape, settings, narrow, monkeypatch):
    if not narrow:  # side by side, two or three examples at once
        monkeypatch.setattr(routes, "AT_ONCE", 20)
        monkeypatch.setattr(routes, "CACHE", 2**10)
    layer = kind(**settings)
    with jax.enable_x64(True):
        x = jnp.asarray(normal(shape), jnp.float64)
        grids = layer._grids(x)
        inputs, groups = x.shape[-1], layer.groups
        large, small = (inputs, layer.features) if kind is Conv else (layer.features, inputs)
        rng = np.random.default_rng(0)
        a = jnp.asarray(rng.normal(size=(4, *grids.large, large)))
        b = jnp.asarray(rng.normal(size=(4, *grids.small, small)))
        w = jnp.asarray(rng.normal(size=(*grids.window, large // groups, small)))
        for name, factors in {"correlate": (a, w), "spread": (b, w), "match": (a, b)}.items():
            ways = jax.jit(
                lambda a, b, name=name: [getattr(m, name)(grids, a, b, groups) for m in (routes, correlation)]
            )
            chex.assert_trees_all_close(*ways(*factors), rtol=1e-11, atol=1e-11)


@LAYERS
@pytest.mark.parametrize(
    "settings",
    [
        {"window": (3, 3)},
        {"window": (3, 3), "stride": 2},
        {"window": (3, 3), "dilation": 2},
        {"window": (3, 3), "dilation": 2, "stride": 2},
        {"window": (3,)},
        {"window": (2, 2, 2)},
        {"window": (3, 3), "groups": 2},
    ],
    ids=str,
)
def test_gradients_are_plain_convolutions(kind, settings):
    """Others take XLA a hundred times as long inside a loop, and so inside `fit` (jax issue 12868)."""
    layer, x = kind(32, **settings), normal((16, *(8,) * len(settings["window"]), 32))
    params = layer.init(jax.random.key(0), x)
    y, residuals = layer.forward(params, x)
    gradients = [
        lambda g: layer.param_gradient(params, residuals, g),
        lambda g: layer.input_gradient(params, residuals, g),
    ]
    found = [e for gradient in gradients for e in equations(jax.make_jaxpr(gradient)(y).jaxpr)]
    convolutions = [e for e in found if e.primitive.name == "conv_general_dilated"]
    assert convolutions
    for equation in convolutions:
        n, last = equation.params["dimension_numbers"], y.ndim - 1
        channels_last = {(0, rank, *range(1, rank)) for rank in range(2, last + 1)}
        assert n.lhs_spec in channels_last
        assert n.out_spec in channels_last
        assert n.rhs_spec in {(rank, rank - 1, *range(rank - 1)) for rank in range(2, last + 1)}


def equations(jaxpr):
    """All of them, those inside loops and calls too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
        ):
            if hasattr(inner, "jaxpr"):
                yield from equations(inner.jaxpr)
            elif hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("examples", [4, 7], ids="{} examples".format)
def test_one_row_more_and_a_rest_of_examples_change_nothing(monkeypatch, examples):
    monkeypatch.setattr(routes, "CACHE", 3 * 4 * 8 * 8 * (24 + 24))  # bytes of three examples: 7 of them leave one
    layer, x = Conv(24, (5, 5)), normal((examples, 8, 8, 24))
    params = layer.init(jax.random.key(1), x)
    grids = layer._grids(x)
    assert routes.kept_on_one_core(grids, x, params["weight"])  # float32, and long sums
    assert cpu.in_turns(examples, 3) == ((2, 2) if examples == 4 else (3, 2))

    def plain(weight, x):
        return jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    @jax.jit
    def pairs(params, x, g):
        y, pull = jax.vjp(plain, params["weight"], x)
        found, residuals = layer.forward(params, x)
        d_weight = layer.param_gradient(params, residuals, g)["weight"]
        return (found, d_weight, layer.input_gradient(params, residuals, g)), (y, *pull(g))

    for found, expected in zip(*pairs(params, x, normal((examples, 8, 8, 24), 2)), strict=True):
        assert jnp.linalg.norm(found - expected) <= 1e-5 * jnp.linalg.norm(expected)


def test_elsewhere_than_on_a_cpu_the_direct_convolution_is_taken(monkeypatch):
    layer, x = Conv(8, (3, 3), 2), normal((2, 6, 6, 8))
    params = layer.init(jax.random.key(0), x)

    def operations():
        jaxpr = jax.make_jaxpr(lambda x, g: layer.input_gradient(params, x, g))(x, layer.forward(params, x)[0])
        return str(jaxpr).count("conv_general_dilated[")

    assert operations() == 3  # and a matmul
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert operations() == 1


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
    assert Relu().affine((), x, x) is None
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
    with pytest.raises(LayerError, match=r"weight \[3, 3, 3, 4\] for the input float32\[2, 5, 5, 3\]"):
        layer.forward(params, normal((2, 5, 5, 3)))
    with pytest.raises(LayerError, match=r"parameters \{bias, weight\}"):
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
