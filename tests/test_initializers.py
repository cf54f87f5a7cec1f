import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import Glorot, He, LeCun, Normal

KEY = jax.random.key(3)
THEIRS = {
    LeCun(): jax.nn.initializers.lecun_normal(),
    Glorot(): jax.nn.initializers.glorot_normal(),
    He(): jax.nn.initializers.he_normal(),
    Normal(0.5): jax.nn.initializers.normal(0.5),
}


@pytest.mark.parametrize("ours", THEIRS, ids=str)
@pytest.mark.parametrize("shape", [(3, 2), (3, 4, 2), (3, 3, 2, 5)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_numbers_are_those_of_jax(ours, shape, dtype):
    drawn = ours(KEY, shape, jnp.dtype(dtype))
    assert (drawn.shape, drawn.dtype) == (shape, jnp.dtype(dtype))
    np.testing.assert_array_equal(drawn, THEIRS[ours](KEY, shape, jnp.dtype(dtype)))


@pytest.mark.parametrize(("initializer", "variance"), [(LeCun(), 1 / 20), (Glorot(), 2 / 60), (He(), 2 / 20)], ids=str)
def test_the_variance_is_what_the_fans_say(initializer, variance):
    weight = initializer(KEY, (5, 4, 8), jnp.float32)  # fan_in 5 * 4, fan_out 5 * 8
    many = jax.vmap(lambda key: initializer(key, (5, 4, 8), jnp.float32))(jax.random.split(KEY, 200))
    assert abs(many.var() / variance - 1) < 0.03
    assert jnp.abs(weight).max() < 2.3 * variance**0.5
