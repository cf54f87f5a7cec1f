import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import LayerError
from jaxbp.core.shared import Shared, Uses
from jaxbp.layers.attention.positions import LearnedPositions, SinusoidalPositions, rotate
from jaxbp.layers.embedding import Embedding, TiedEmbedding
from tests.support.arrays import normal

TOKENS = jnp.array([[0, 2, 2], [1, 0, 2]])


def test_an_embedding_worked_by_hand():
    layer, params = Embedding(3, 1), {"weight": jnp.array([[10.0], [20.0], [30.0]])}
    y, residuals = layer.forward(params, TOKENS)
    np.testing.assert_array_equal(y[..., 0], [[10, 30, 30], [20, 10, 30]])
    g = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[..., None]
    np.testing.assert_array_equal(layer.param_gradient(params, residuals, g)["weight"], [[6], [4], [11]])
    assert layer.input_gradient(params, residuals, g) is None


LAWFUL = {
    "embedding": (Embedding(3, 2), TOKENS),
    "tied, at the bottom": (TiedEmbedding(3, 2), TOKENS),
    "tied, at the top": (TiedEmbedding(3, 2), normal(2, 4, 2)),
    "learned": (LearnedPositions(4), normal(2, 3, 2)),
    "sinusoidal": (SinusoidalPositions(), normal(2, 3, 3)),
}


@pytest.mark.parametrize(("layer", "x"), LAWFUL.values(), ids=LAWFUL)
def test_what_knows_tokens_and_positions_obeys_the_layer_laws(layer, x):
    jaxbp.check_layer(layer, x)


def test_factors_give_the_gradient_with_the_cross_terms_of_both_uses():
    layer, residuals = Shared(TiedEmbedding(3, 2)), Uses((TOKENS, normal(2, 4, 2)))
    params = layer.layer.init(jax.random.key(0), TOKENS)
    g = Uses((normal(2, 3, 2, seed=1), normal(2, 4, 3, seed=2)))
    a, b = layer.affine(params, residuals, g)
    gradient = layer.param_gradient(params, residuals, g)["weight"]
    np.testing.assert_allclose(jnp.einsum("nti,nto->io", a, b), gradient, rtol=1e-5, atol=1e-6)


def test_a_turn_back_undoes_a_turn_and_products_know_distances_alone():
    x, y = normal(1, 4, 1, 6), normal(1, 4, 1, 6, seed=1)
    np.testing.assert_allclose(rotate(rotate(x), back=True), x, atol=1e-6)
    far = jnp.sum(rotate(x, 7) * rotate(y, 7), -1)
    np.testing.assert_allclose(far, jnp.sum(rotate(x) * rotate(y), -1), atol=1e-5)


def test_sinusoidal_positions_are_those_of_the_paper():
    y, _ = SinusoidalPositions().forward((), jnp.zeros((1, 3, 4)))
    for t in range(3):
        expected = [np.sin(t), np.cos(t), np.sin(t / 100), np.cos(t / 100)]
        np.testing.assert_allclose(y[0, t], expected, atol=1e-6)


@pytest.mark.parametrize("bad", [3, -1])
def test_a_token_out_of_range_is_refused_and_shows_under_jit(bad):
    layer = Embedding(3, 2)
    params = layer.init(jax.random.key(0), TOKENS)
    with pytest.raises(LayerError, match=f"token {bad} is out of range: the vocabulary has tokens 0 to 2"):
        jaxbp.Serial(layer).forward((params,), TOKENS.at[0, 0].set(bad))
    y = jax.jit(lambda x: layer.forward(params, x)[0])(TOKENS.at[0, 0].set(bad))
    assert np.isnan(y[0, 0]).all()
    assert np.isfinite(y[0, 1:]).all()


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_token_and_what_is_too_long_is_refused():
    with pytest.raises(LayerError, match=r'layer "0", .*integer tokens .* got float32\[2, 3\]'):
        jaxbp.Serial(Embedding(3, 2)).init(jax.random.key(0), normal(2, 3))
    with pytest.raises(LayerError, match=r'layer "0", .*there are 2 positions, got 3'):
        jaxbp.Serial(LearnedPositions(2)).init(jax.random.key(0), normal(2, 3, 2))
    with pytest.raises(LayerError, match=r"expected parameters .*\[3, 2\]"):
        Embedding(3, 2).forward({"weight": jnp.ones((4, 2))}, TOKENS)
