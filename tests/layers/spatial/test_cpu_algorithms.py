"""Every way to compute a convolution's three maps gives what the direct one gives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import Conv, ConvTranspose
from jaxbp.core import chunking as cpu
from jaxbp.layers.spatial import bilinear_maps as correlation
from jaxbp.layers.spatial import cpu_algorithms as routes
from tests.support.arrays import normal

LAYERS = pytest.mark.parametrize("kind", [Conv, ConvTranspose])


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
        x = jnp.asarray(normal(*shape), jnp.float64)
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
    layer, x = kind(32, **settings), normal(16, *(8,) * len(settings["window"]), 32)
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
    layer, x = Conv(24, (5, 5)), normal(examples, 8, 8, 24)
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

    for found, expected in zip(*pairs(params, x, normal(examples, 8, 8, 24, seed=2)), strict=True):
        assert jnp.linalg.norm(found - expected) <= 1e-5 * jnp.linalg.norm(expected)


def test_elsewhere_than_on_a_cpu_the_direct_convolution_is_taken(monkeypatch):
    layer, x = Conv(8, (3, 3), 2), normal(2, 6, 6, 8)
    params = layer.init(jax.random.key(0), x)

    def operations():
        jaxpr = jax.make_jaxpr(lambda x, g: layer.input_gradient(params, x, g))(x, layer.forward(params, x)[0])
        return str(jaxpr).count("conv_general_dilated[")

    assert operations() == 3  # and a matmul
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert operations() == 1
