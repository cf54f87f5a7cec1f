"""Augmentation: pure functions (key, images) -> images of the same shape, for `jaxbp.fit` to draw each batch anew."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray


def shift(
    key: PRNGKeyArray, images: Float[Array, "n height width channels"], pixels: int = 1
) -> Float[Array, "n height width channels"]:
    """Moves each image by up to `pixels` up or down and left or right, all shifts equally likely; zeros move in."""
    padded = jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * pixels + 1)
    return jax.vmap(lambda image, corner: lax.dynamic_slice(image, (*corner, 0), images.shape[1:]))(padded, corners)
