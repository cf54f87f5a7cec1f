import jax.numpy as jnp
import numpy as np

from jaxbp.losses import extended_exponent as extended


def test_sums_and_products_far_below_the_range_of_floats():
    tiny, tinier = extended.exp(jnp.array([-20000.0])), extended.exp(jnp.array([-20001.0]))
    np.testing.assert_allclose(extended.log(extended.multiply(tiny, tinier)), -40001, rtol=1e-6)
    np.testing.assert_allclose(extended.log(extended.add(tiny, tiny)), -20000 + np.log(2), rtol=1e-6)


def test_logarithms_of_usual_numbers_come_back_exactly():
    x = jnp.linspace(-80, 0, 1000)
    a = extended.exp(x)
    np.testing.assert_allclose(a.m * extended.power_of_two(a.e, a.m.dtype), np.exp(np.asarray(x, float)), rtol=1e-6)
    np.testing.assert_allclose(extended.log(a), x, atol=1e-5)


def test_zero_stays_zero():
    zero, one = extended.exp(jnp.array([-jnp.inf])), extended.exp(jnp.array([0.0]))
    assert extended.log(zero) == extended.log(extended.multiply(zero, zero)) == -jnp.inf
    np.testing.assert_allclose(extended.log(extended.add(zero, one, zero)), 0, atol=1e-7)
