import chex
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxbp import LayerError, Serial, check_layer
from jaxbp.layers.batch_norm import BatchNorm
from jaxbp.layers.dropout import SpatialDropout
from jaxbp.layers.normalization import GroupNorm, InstanceNorm, LayerNorm, RMSNorm

KEY = jax.random.key(5)
ALL = pytest.mark.parametrize("layer", [BatchNorm(), LayerNorm(), GroupNorm(2), InstanceNorm(), RMSNorm()], ids=str)


def normal(shape, seed=0):
    return 2 * jax.random.normal(jax.random.key(seed), shape) + 1


@ALL
def test_normalisations_obey_the_layer_laws(layer):
    check_layer(layer, normal((3, 4, 2, 4)), rng=KEY)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    make=st.sampled_from([BatchNorm, LayerNorm, lambda: GroupNorm(2), InstanceNorm, RMSNorm]),
    grid=st.lists(st.integers(2, 4), min_size=1, max_size=2),
    channels=st.sampled_from([2, 6]),
)
def test_gradients_are_the_vjp_for_any_shape_and_scale(make, grid, channels):
    layer = make()

    @jax.jit
    def pairs(params, x):
        y, pull, residuals = jax.vjp(lambda params, x: layer.forward(params, x, KEY), params, x, has_aux=True)
        g = jax.random.normal(jax.random.key(7), y.shape, y.dtype)
        d_params, dx = pull(g)
        return (layer.input_gradient(params, residuals, g), layer.param_gradient(params, residuals, g)), (dx, d_params)

    with jax.enable_x64(True):
        x = jnp.asarray(normal((2, *grid, channels)), jnp.float64)
        params = {name: p + jnp.arange(p.size) for name, p in layer.init(KEY, x).items()}
        chex.assert_trees_all_close(*pairs(params, x), rtol=1e-9, atol=1e-10)


def test_batch_norm_matches_a_case_worked_by_hand():
    # μ = 3 and σ² = 1 + ε = 4: σ = 2, x̂ = ±1/2.
    layer = BatchNorm(epsilon=3.0)
    x, g = jnp.array([[2.0], [4.0]]), jnp.array([[0.0], [8.0]])
    params = {"scale": jnp.array([10.0]), "bias": jnp.array([1.0]), "mean": jnp.zeros(1), "variance": jnp.ones(1)}
    y, residuals = layer.forward(params, x, KEY)
    assert y.ravel().tolist() == [-4.0, 6.0]
    # ĝ = 0, 80; mean ĝ = 40; mean ĝ x̂ = 20; so (0 - 40 + 10) / 2 and (80 - 40 - 10) / 2.
    assert layer.input_gradient(params, residuals, g).ravel().tolist() == [-15.0, 15.0]
    gradient = layer.param_gradient(params, residuals, g)
    assert {name: value.item() for name, value in gradient.items()} == {"scale": 4, "bias": 8, "mean": 0, "variance": 0}
    new = layer.refresh(params, residuals)
    assert new["mean"].item() == pytest.approx(0.3)  # a tenth of 3
    assert new["variance"].item() == pytest.approx(0.9 + 0.2)  # unbiased: (1 + 1) / (2 - 1)


def test_in_evaluation_batch_norm_uses_running_statistics_and_leaves_them():
    layer, x = BatchNorm(epsilon=1.0), jnp.array([[7.0], [5.0]])
    params = {"scale": jnp.array([2.0]), "bias": jnp.zeros(1), "mean": jnp.array([3.0]), "variance": jnp.array([3.0])}
    y, residuals = layer.forward(params, x)
    assert y.ravel().tolist() == [4.0, 2.0]
    assert layer.input_gradient(params, residuals, jnp.ones((2, 1))).ravel().tolist() == [1.0, 1.0]
    assert layer.refresh(params, residuals) is params


@ALL
def test_outputs_are_standardised_over_their_set(layer):
    x = normal((4, 3, 3, 4))
    y, _ = layer.forward(layer.init(KEY, x), x, KEY)
    axes = {BatchNorm: (0, 1, 2), LayerNorm: (3,), InstanceNorm: (1, 2), GroupNorm: (1, 2, 4), RMSNorm: (3,)}[
        type(layer)
    ]
    y = y.reshape(4, 3, 3, 2, 2) if isinstance(layer, GroupNorm) else y
    if not isinstance(layer, RMSNorm):
        assert jnp.max(jnp.abs(jnp.mean(y, axes))) < 1e-5
    assert jnp.max(jnp.abs(jnp.mean(y**2, axes) - 1)) < 1e-3


@ALL
def test_large_means_do_not_cancel_the_variance(layer):
    x = normal((4, 3, 3, 4)) + 1000
    y, _ = layer.forward(layer.init(KEY, x), x, KEY)
    assert jnp.isfinite(y).all()
    if not isinstance(layer, RMSNorm):
        close, _ = layer.forward(layer.init(KEY, x), x - 1000, KEY)
        chex.assert_trees_all_close(y, close, atol=2e-3)


def test_running_statistics_are_float32_in_a_bfloat16_network():
    params = BatchNorm().init(KEY, jnp.zeros((2, 3), jnp.bfloat16))
    assert {name: p.dtype.name for name, p in params.items()} == {
        "scale": "bfloat16", "bias": "bfloat16", "mean": "float32", "variance": "float32"
    }  # fmt: skip


def test_batch_norm_alone_mixes_examples():
    assert BatchNorm().mixes_examples
    assert not any(layer.mixes_examples for layer in (LayerNorm(), GroupNorm(2), InstanceNorm(), RMSNorm()))


def test_a_batch_of_one_cannot_train_batch_norm():
    model, x = Serial(BatchNorm()), jnp.ones((1, 3))
    params = model.init(KEY, x)
    with pytest.raises(
        LayerError, match=r'layer "0", BatchNorm\(\): in training expected at least two numbers a channel'
    ):
        model.forward(params, x, KEY)
    assert model.forward(params, x)[0].shape == (1, 3)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (GroupNorm(2), (2, 4, 3), "channels that 2 groups divide"),
        (GroupNorm(4), (2, 4), "more than one number a group"),
        (InstanceNorm(), (2, 1, 1, 3), "more than one position"),
        (LayerNorm(), (3,), r"expected \[examples, ..., channels\]"),
        (BatchNorm(), (2, 0), "none of them empty"),
    ],
    ids=str,
)
def test_an_input_that_does_not_fit_is_refused(layer, shape, message):
    with pytest.raises(LayerError, match=message):
        layer.init(KEY, jnp.ones(shape))


@ALL
def test_integers_and_other_parameters_are_refused(layer):
    x = normal((2, 3, 4))
    params = layer.init(KEY, x)
    with pytest.raises(LayerError, match="floating-point"):
        layer.init(KEY, x.astype(int))
    with pytest.raises(LayerError, match=r"expected parameters \{"):
        layer.forward({"weight": params["scale"]}, x)
    with pytest.raises(LayerError, match=r"expected parameters \{.*scale \[6\].* for float32\[2, 3, 6\]"):
        layer.forward(params, normal((2, 3, 6)))


@pytest.mark.parametrize("kind", [BatchNorm, LayerNorm, InstanceNorm, RMSNorm])
def test_settings_that_make_no_sense_are_refused_at_once(kind):
    with pytest.raises(ValueError, match="positive epsilon"):
        kind(epsilon=0.0)
    with pytest.raises(ValueError, match="0 < momentum <= 1"):
        BatchNorm(momentum=0.0)
    with pytest.raises(ValueError, match="positive number of groups"):
        GroupNorm(0)


def test_spatial_dropout_drops_whole_maps_and_keeps_the_mean():
    layer, x = SpatialDropout(0.5), jnp.ones((40, 3, 3, 50))
    y, residuals = layer.forward((), x, KEY)
    assert set(y.ravel().tolist()) == {0.0, 2.0}
    assert (y == y[:, :1, :1]).all()
    assert abs(jnp.mean(y) - 1) < 0.1
    chex.assert_trees_all_equal(layer.input_gradient((), residuals, x), y)
    check_layer(layer, normal((2, 3, 2, 4)), rng=KEY)
    with pytest.raises(LayerError, match="grid axes"):
        layer.forward((), jnp.ones((2, 3)), KEY)
