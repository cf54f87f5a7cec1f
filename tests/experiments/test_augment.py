import math

import chex
import jax
import jax.numpy as jnp
import pytest

from experiments.mnist.augmentation import augment, distorted, elastic_field, gaussian, shifted

KEY = jax.random.key(0)
IMAGES = jnp.zeros((3, 12, 12, 1)).at[:, 5:7, 5:7].set(1.0)


def test_amounts_of_zero_change_nothing():
    chex.assert_trees_all_close(augment(KEY, IMAGES, 0.0, 0.0, 0.0, 0.0), IMAGES, atol=1e-6)


def test_the_same_key_gives_the_same_images_and_each_image_a_change_of_its_own():
    a = augment(KEY, IMAGES)
    chex.assert_trees_all_equal(a, augment(KEY, IMAGES))
    assert jnp.abs(a[0] - a[1]).max() > 0.1
    assert a.shape == IMAGES.shape


def test_a_shift_moves_the_centre_of_mass_and_keeps_the_mass():
    moved = shifted(KEY, IMAGES, 3.0)
    chex.assert_trees_all_close(moved.sum((1, 2, 3)), IMAGES.sum((1, 2, 3)), rtol=1e-4)
    rows = jnp.sum(moved * jnp.arange(12.0)[:, None, None], (1, 2, 3)) / 4
    assert jnp.max(jnp.abs(rows - 5.5)) <= 3.0
    assert jnp.min(jnp.abs(rows - 5.5)) > 0.0


@pytest.mark.parametrize(("alpha", "sigma"), [(34.0, 4.0), (36.0, 6.0)])
def test_the_elastic_field_is_as_strong_as_derived(alpha, sigma):
    smoothing = [gaussian(64, sigma)] * 2
    keys = jax.random.split(KEY, 200)
    field = jax.vmap(lambda key: elastic_field(key, (64, 64), alpha, smoothing))(keys)
    field = field[..., 20:44, 20:44]  # away from the border, beyond which there is no noise
    s = alpha / (sigma * math.sqrt(12 * math.pi))
    assert float(jnp.std(field)) == pytest.approx(s, rel=0.05)
    assert float(jnp.std(jnp.diff(field))) == pytest.approx(s / (math.sqrt(2) * sigma), rel=0.05)


def test_settings_and_images_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="floating-point images"):
        augment(KEY, IMAGES.astype(int))
    with pytest.raises(ValueError, match="positive sigma"):
        distorted(KEY, IMAGES, sigma=0.0)
