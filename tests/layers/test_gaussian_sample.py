import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import GaussianSample, LayerError, check_layer
from tests.support.arrays import labels, normal


@pytest.mark.parametrize("shape", [(4,), (4, 3), (2, 3, 5)], ids=str)
def test_a_gaussian_sample_obeys_the_layer_laws(shape):
    check_layer(GaussianSample(), (normal(*shape), normal(*shape, seed=1)), rng=jax.random.key(0))


def test_a_gaussian_sample_worked_by_hand():
    mean, log_variance = jnp.zeros((1, 2)), jnp.log(jnp.array([[4.0, 9.0]]))
    z, residuals = GaussianSample().forward((), (mean, log_variance), jax.random.key(1))
    noise = jax.random.normal(jax.random.key(1), (1, 2))
    np.testing.assert_allclose(z, noise * jnp.array([2.0, 3.0]), rtol=1e-6)
    dmean, dlog_variance = GaussianSample().input_gradient((), residuals, jnp.array([[10.0, 20.0]]))
    chex.assert_trees_all_equal(dmean, jnp.array([[10.0, 20.0]]))
    np.testing.assert_allclose(dlog_variance, noise * jnp.array([10.0, 30.0]), rtol=1e-6)


def test_draws_have_the_mean_and_the_variance_they_are_told():
    shape = (20_000, 1)
    z, _ = GaussianSample().forward((), (jnp.full(shape, 3.0), jnp.full(shape, np.log(4.0))), jax.random.key(0))
    assert abs(z.mean() - 3) < 0.05
    assert abs(z.var() - 4) < 0.15


def test_in_evaluation_it_is_the_mean_and_the_variance_gets_no_gradient():
    x = normal(4, 3), normal(4, 3, seed=1)
    z, residuals = GaussianSample().forward((), x)
    chex.assert_trees_all_equal(z, x[0])
    dmean, dlog_variance = GaussianSample().input_gradient((), residuals, z)
    chex.assert_trees_all_equal((dmean, dlog_variance), (z, jnp.zeros_like(z)))


def test_a_gaussian_sample_needs_a_pair_of_floating_point_arrays_of_one_shape():
    with pytest.raises(
        LayerError, match=r"a pair \(mean, log_variance\), as Split\(2\) returns it, got float32\[4, 3\]"
    ):
        GaussianSample().forward((), normal(4, 3))
    with pytest.raises(LayerError, match=r"of one shape and dtype, got \(float32\[4, 3\], float32\[4, 2\]\)"):
        GaussianSample().forward((), (normal(4, 3), normal(4, 2)))
    with pytest.raises(LayerError, match="floating-point input, got int"):
        GaussianSample().forward((), (labels(4, 3), labels(4, 3)))
