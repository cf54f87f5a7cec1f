from math import pi, sqrt

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import LayerError, RotaryPositions, Serial, check_layer
from jaxbp.layers.attention.positions import rotate
from tests.support.arrays import normal


@pytest.mark.parametrize("base", [10_000.0, 500_000.0, 7.0])
@pytest.mark.parametrize("shape", [(2, 1, 1, 2), (2, 3, 2, 4), (1, 5, 3, 6)], ids=str)
def test_rotary_positions_obey_the_layer_laws(base, shape):
    check_layer(RotaryPositions(base), normal(*shape))


def test_rotations_match_a_case_worked_by_hand():
    # Two pairs, ω = 1 and base^(-1/2) = π / 4: at position 1 the second turns by an eighth.
    layer = RotaryPositions(base=(4 / pi) ** 2)
    x = jnp.array([[[[5.0, 1.0, 7.0, 1.0]], [[0.0, 1.0, 0.0, 1.0]]]])  # positions 0 and 1; pairs are (0, 2) and (1, 3)
    y, residuals = layer.forward((), x)
    chex.assert_trees_all_close(y[0, 0], x[0, 0])  # nothing moves at position 0
    chex.assert_trees_all_close(y[0, 1, 0], jnp.array([0.0, 0.0, 0.0, sqrt(2)]), atol=1e-6)
    dx = layer.input_gradient((), residuals, jnp.array([[[[0.0] * 4], [[0.0, 0.0, 0.0, sqrt(2)]]]]))
    chex.assert_trees_all_close(dx[0, 1, 0], jnp.array([0.0, 1.0, 0.0, 1.0]), atol=1e-6)


def test_a_pair_is_a_complex_number_times_a_phase():
    x, base = np.asarray(normal(2, 5, 3, 8), complex), 50.0
    pairs = x[..., :4] + 1j * x[..., 4:]
    phases = np.exp(1j * np.arange(5)[:, None, None] * base ** (-np.arange(4) / 4))
    expected = np.concatenate([(pairs * phases).real, (pairs * phases).imag], -1)
    y, _ = RotaryPositions(base).forward((), jnp.asarray(x.real, jnp.float32))
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_the_gradient_is_the_rotation_back_and_undoes_it():
    layer, x = RotaryPositions(100.0), normal(2, 4, 2, 6)
    y, residuals = layer.forward((), x)
    chex.assert_trees_all_close(layer.input_gradient((), residuals, y), x, atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(y, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-6)


@pytest.mark.parametrize("base", [10_000.0, 30.0])
def test_positions_one_by_one_are_those_of_all_at_once(base):
    x = normal(2, 4, 1, 6)
    one_by_one = [rotate(x[:, t : t + 1], jnp.asarray(t), base=base) for t in range(4)]
    y, _ = RotaryPositions(base).forward((), x)
    chex.assert_trees_all_close(jnp.concatenate(one_by_one, 1), y, atol=1e-6)


def test_the_products_of_queries_and_keys_know_distances_alone():
    q, k = (jnp.tile(normal(1, 1, 1, 6, seed=seed), (1, 5, 1, 1)) for seed in range(2))
    (q, _), (k, _) = (RotaryPositions(20.0).forward((), x) for x in (q, k))
    products = jnp.einsum("nthd,nshd->ts", q, k)
    for distance in range(5):
        diagonal = jnp.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, jnp.full_like(diagonal, diagonal[0]), atol=1e-5)


def test_bfloat16_knows_far_positions_apart():
    x = jnp.tile(jnp.array([1.0, 0.0], jnp.bfloat16), (1, 1001, 1, 1))
    y = jax.jit(lambda x: RotaryPositions().forward((), x)[0])(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y[0, 1000, 0], float), [np.cos(1000), np.sin(1000)], atol=4e-3)


@pytest.mark.parametrize("base", [0.0, -1.0, float("nan")])
def test_a_base_must_be_positive(base):
    with pytest.raises(ValueError, match="RotaryPositions needs a positive base, not"):
        RotaryPositions(base)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 2, 5)], ids=str)
def test_what_has_no_pairs_is_refused(shape):
    with pytest.raises(LayerError, match=r'layer "0", .*\[examples, positions, heads, an even size\], got float32'):
        Serial(RotaryPositions()).forward(((),), normal(*shape))


def test_integers_are_refused():
    with pytest.raises(LayerError, match="floating-point input, got int32"):
        RotaryPositions().forward((), jnp.ones((2, 3, 2, 4), jnp.int32))
