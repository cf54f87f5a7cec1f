import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import (
    Attention,
    Context,
    DropLengths,
    DropMemory,
    Heads,
    LayerError,
    LearnedPositions,
    MapValues,
    MultiHeadAttention,
    PlainAttention,
    Sequences,
    Serial,
    check_layer,
    decoder_block,
    encoder_block,
)
from tests.support.arrays import normal
from tests.support.autodiff import agrees_with_autodiff

KEY = jax.random.key(0)
N, T, S, D = 2, 5, 3, 2
MEMORY = Sequences(normal(N, 2, 3), jnp.array([2, 1]))


def heads(t=T, s=T, h=4, k=2, mask=None, d=D):
    return Heads(normal(N, t, h, d), normal(N, s, k, d, seed=1), normal(N, s, k, d, seed=2), mask)


def mask(*shape):
    """Some allowed and some not; the first query of the first example may look at nothing where queries differ."""
    allowed = np.random.default_rng(0).random(shape) > 0.4
    if len(shape) > 2:
        allowed[0, ..., 0, :] = False
    return jnp.asarray(allowed)


MASKS = {
    "free": (False, heads()),
    "causal": (True, heads()),
    "keys": (False, heads(mask=mask(N, T))),
    "causal and pairs": (True, heads(mask=mask(N, T, T))),
    "heads": (False, heads(s=S, mask=mask(N, 4, T, S))),
    "cross": (False, heads(s=S, h=2)),
}


@pytest.mark.parametrize(("causal", "x"), MASKS.values(), ids=MASKS)
def test_both_forms_agree_with_autodiff_of_the_plain_one_under_every_mask(causal, x):
    plain, lean = PlainAttention(causal), Attention(causal, rows=2)
    with jax.enable_x64(True):
        *arrays, mask, _ = jax.tree.map(lambda a: a if a.dtype == bool else a.astype(float), x)
        g = normal(*arrays[0].shape, seed=3, dtype=float)

        @jax.jit
        def run(arrays):
            found = []
            for layer in (plain, lean):
                y, residuals = layer.forward((), Heads(*arrays, mask))
                found.append((y, *layer.input_gradient((), residuals, g)[:3]))
            y, pull_back = jax.vjp(lambda arrays: plain.forward((), Heads(*arrays, mask))[0], arrays)
            return *found, (y, *pull_back(g)[0])

        ours, leaner, true = run(arrays)
    for a, b, c in zip(ours, leaner, true, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(b, c, rtol=1e-10, atol=1e-12)


LAWFUL = {
    "plain": (PlainAttention(True, 0.5), heads(t=2, s=2, h=1, k=1, mask=mask(N, 2)), KEY),
    "lean": (Attention(True, 0.5, rows=1), heads(t=2, s=2, h=1, k=1, mask=mask(N, 2)), KEY),
    "lean, every pair": (Attention(rows=2), heads(t=3, s=2, h=4, k=2, mask=mask(N, 3, 2), d=1), None),
}


@pytest.mark.parametrize(("layer", "x", "rng"), LAWFUL.values(), ids=LAWFUL)
def test_attention_obeys_the_layer_laws(layer, x, rng):
    check_layer(layer, x, rng=rng)


def test_attention_worked_by_hand():
    """Two keys, equally good: y is the values' mean; g = 1 asks v[1] for twice as much as v[0]'s, so z[1] rises."""
    x = Heads(jnp.zeros((1, 1, 1, 1)), jnp.array([[[[1.0]], [[-1.0]]]]), jnp.array([[[[2.0]], [[6.0]]]]))
    y, residuals = Attention().forward((), x)
    assert y == 4
    np.testing.assert_allclose(residuals[5], np.log(2), rtol=1e-6)
    d = Attention().input_gradient((), residuals, jnp.ones((1, 1, 1, 1)))
    np.testing.assert_allclose(d.value[0, :, 0, 0], [0.5, 0.5])
    # ∂J/∂z = p (v - y) = (-1, 1), so ∂J/∂q = Σ ∂J/∂z k = -2, and ∂J/∂k = ∂J/∂z q = 0
    np.testing.assert_allclose(d.query, [[[[-2.0]]]])
    np.testing.assert_allclose(d.key, 0)


def test_a_query_that_may_look_at_nothing_gives_zero_and_no_gradient():
    for layer in (PlainAttention(), Attention(rows=2)):
        y, residuals = layer.forward((), heads(mask=jnp.zeros((N, T), bool)))
        d = layer.input_gradient((), residuals, normal(*y.shape))
        assert not y.any()
        assert not any(a.any() for a in jax.tree.leaves(d))


def test_who_looks_at_a_memory_of_padding_alone_sees_zeros():
    layer, x = MultiHeadAttention(4, 2), Context(normal(N, 3, 4), MEMORY._replace(lengths=jnp.array([0, 2])))
    params = layer.init(KEY, x)
    params["output"]["bias"] += 1.0
    y, _ = layer.forward(params, x)
    assert (y[0] == 1).all()


def test_a_causal_mask_lets_no_gradient_reach_what_comes_after():
    layer = encoder_block(4, 2, 3, causal=True, rotary=True)
    x = normal(1, T, 4)
    params = layer.init(KEY, x)

    @jax.jit
    def reached(params, x):
        """∂y[t]/∂x[s], one row of cotangents a position."""
        _, residuals = layer.forward(params, x)
        return jax.vmap(lambda g: layer.input_gradient(params, residuals, g[None]))(jnp.eye(T)[..., None] * x[0])

    moved = np.abs(reached(params, x)[:, 0]).sum(-1)
    assert (np.tril(moved) > 0).sum() == T * (T + 1) / 2
    assert not np.triu(moved, 1).any()


PADDED = Sequences(normal(N, 3, 4), jnp.array([3, 2]))


def test_multi_head_attention_obeys_the_layer_laws():
    layer = MultiHeadAttention(4, 2, dropout=0.5, rotary=True, bias=False, keep_weights=True)
    check_layer(layer, Context(normal(N, 3, 4), MEMORY, mask(N, 3, 2)), rng=KEY)


ATTENDING = {
    "shared heads": (MultiHeadAttention(4, 2, causal=True, heads_per_group=2, rotary=True), PADDED),
    "encoder, pre-norm": (encoder_block(4, 2, 3, causal=True, dropout=0.5), normal(N, 3, 4)),
    "decoder, post-norm": (
        Serial(MapValues(LearnedPositions(3)), decoder_block(4, 2, 3, dropout=0.5, post_norm=True), DropMemory()),
        Context(PADDED, MEMORY),
    ),
}


@pytest.mark.parametrize(("layer", "x"), ATTENDING.values(), ids=ATTENDING)
def test_attention_within_networks_has_the_gradients_of_autodiff(layer, x):
    agrees_with_autodiff(Serial(layer, DropLengths()), x, normal(N, 3, 4, seed=4), KEY)


@pytest.mark.parametrize("layer", [PlainAttention(dropout=0.5), Attention(dropout=0.5, rows=2)], ids=str)
def test_dropout_of_weights_is_drawn_again_on_the_way_back(layer):
    x, g = heads(t=3, s=3, h=1, k=1), normal(N, 3, 1, D, seed=3)

    @jax.jit
    def both(x):
        _, residuals = layer.forward((), x, KEY)
        _, pull_back = jax.vjp(lambda x: layer.forward((), x, KEY)[0], x)
        return layer.input_gradient((), residuals, g), pull_back(g)[0]

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *both(x))


def test_a_delta_that_is_no_number_stays_with_its_example():
    layer, x = Attention(rows=2), heads()
    y, residuals = layer.forward((), x)
    d = layer.input_gradient((), residuals, jnp.full_like(y, 1.0).at[0].set(jnp.nan))
    for gradient in d[:3]:
        assert np.isnan(gradient[0]).all()
        assert np.isfinite(gradient[1]).all()


WRONG = {
    "no heads": (Attention(), normal(N, T, D), r"expected Heads\(query, key, value, mask\), got float32"),
    "rank": (Attention(), Heads(*[normal(N, T, D)] * 3), r"expected query \[n, t, h, d\]"),
    "sharing": (Attention(), heads(h=3), "2 must divide 3"),
    "causal": (Attention(True), heads(s=S), "as many queries as keys, got 5 and 3"),
    "mask": (Attention(), heads(mask=jnp.ones((N, S), bool)), r"expected a mask bool\[2, 5\].* got bool\[2, 3\]"),
    "mask of numbers": (Attention(), heads(mask=jnp.ones((N, T))), r"got float32\[2, 5\]"),
    "mask in a network": (
        MultiHeadAttention(4, 2),
        Context(normal(N, 3, 4), MEMORY, mask(N, 3)),
        r'layer "0.attention", .* expected a mask bool\[2, 2\].* got bool\[2, 3\]',
    ),
    "lengths": (
        MultiHeadAttention(4, 2),
        Context(normal(N, 3, 4), Sequences(normal(N, 3, 3), jnp.array([1, 4]))),
        r'layer "0.attention", .* expected lengths from 0 to 3, .* got 4 for sequence 1',
    ),
    "integers": (Attention(), jax.tree.map(lambda a: a.astype(int), heads()), "floating-point"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("layer", "x", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused(layer, x, message):
    params = layer.init(KEY, Context(normal(N, 3, 4), MEMORY)) if isinstance(layer, MultiHeadAttention) else ()
    with pytest.raises(LayerError, match=message):
        jaxbp.Serial(layer).forward((params,), x)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="3 heads must divide 4 features"):
        MultiHeadAttention(4, 3)
    with pytest.raises(ValueError, match="3 heads a group must divide 4 heads"):
        MultiHeadAttention(8, 4, heads_per_group=3)
    with pytest.raises(ValueError, match="even size, not 1"):
        MultiHeadAttention(4, 4, rotary=True)
    with pytest.raises(ValueError, match="0 <= dropout < 1"):
        Attention(dropout=1.0)
