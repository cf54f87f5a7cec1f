"""Augmentation of images [n, height, width, channels]: pure functions of a key, each image drawn its own change.

Every change here is a warp: pixel p of the new image is taken from the place φ(p) of the old one, between pixels by
linear interpolation; beyond the border stands zero. Let c be the centre:

    shift       φ(p) = p - t                       t uniform up to `shift` pixels along each axis
    rotation    φ(p) = c + R(-α) (p - c)           α uniform up to `degrees`
    scale       φ(p) = c + (p - c) / s             log s uniform up to log(1 + `scale`)
    elastic     φ(p) = p + u(p)                    u = α (noise in [-1, 1] ∗ Gaussian of width σ): neighbours go along

`augment` draws all of them and resamples once: every resampling blurs.

Source: Simard, Steinkraus & Platt, Best Practices for Convolutional Neural Networks Applied to Visual Document
Analysis (2003), for the elastic distortion, with α = 34 and σ = 4 on 28x28 digits.

How strong is it? The noise has variance 1/3, the Gaussian's squares add up to 1 / (4π σ²), and u varies like a Gaussian
of width √2 σ; so along an axis u has the standard deviation s = α / (σ √(12π)), and ∂u/∂p has s / (√2 σ):

    α = 34, σ = 4    s = 1.4 pixels, stretched and squeezed by a quarter: strokes kink and smear
    α = 36, σ = 6    s = 1.0 pixels, by an eighth: digits as other hands would write them
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, PRNGKeyArray

Images = Float[Array, "n height width channels"]


@partial(jax.jit, static_argnames=("shift", "degrees", "scale", "alpha", "sigma"))
def augment(
    key: PRNGKeyArray,
    images: Images,
    shift: float = 2.0,
    degrees: float = 10.0,
    scale: float = 0.1,
    alpha: float = 34.0,
    sigma: float = 4.0,
) -> Images:
    """Every image turned, scaled, shifted and distorted by chance; an amount of 0 leaves a change out.

    Args:
        key: the same key gives the same images.
        images: floating-point, [n, height, width, channels].
        shift: the largest shift, in pixels.
        degrees: the largest rotation.
        scale: 0.1 scales by factors from 1 / 1.1 to 1.1.
        alpha: strength of the elastic distortion.
        sigma: the width of its Gaussian in pixels: large is stiff.
    """
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"expected floating-point images [n, height, width, channels], got {images.dtype}{images.shape}"
        )
    size = images.shape[1:3]
    smoothing = [gaussian(length, sigma) for length in size] if alpha else None

    def one(key, image):
        affine, noise = jax.random.split(key)
        places = affine_places(affine, size, shift, degrees, scale)
        if alpha:
            places = places + elastic_field(noise, size, alpha, smoothing)
        return warp(image, places)

    return jax.vmap(one)(jax.random.split(key, images.shape[0]), images)


def shifted(key: PRNGKeyArray, images: Images, pixels: float = 2.0) -> Images:
    """Every image moved by up to `pixels` along each axis."""
    return augment(key, images, pixels, 0.0, 0.0, 0.0)


def rotated(key: PRNGKeyArray, images: Images, degrees: float = 10.0) -> Images:
    """Every image turned by up to `degrees` around its centre."""
    return augment(key, images, 0.0, degrees, 0.0, 0.0)


def scaled(key: PRNGKeyArray, images: Images, scale: float = 0.1) -> Images:
    """Every image scaled by a factor between 1 / (1 + scale) and 1 + scale."""
    return augment(key, images, 0.0, 0.0, scale, 0.0)


def distorted(key: PRNGKeyArray, images: Images, alpha: float = 34.0, sigma: float = 4.0) -> Images:
    """Every image distorted as if drawn on rubber."""
    return augment(key, images, 0.0, 0.0, 0.0, alpha, sigma)


def affine_places(key: PRNGKeyArray, size: tuple[int, int], shift, degrees, scale) -> Float[Array, "2 height width"]:
    """φ of one random rotation, scaling and shift."""
    turn, stretch, *move = jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
    angle, factor = turn * math.radians(degrees), jnp.exp(-stretch * math.log1p(scale))
    rows, columns = grid(size)
    y, x = rows - (size[0] - 1) / 2 - shift * move[0], columns - (size[1] - 1) / 2 - shift * move[1]
    cos, sin = factor * jnp.cos(angle), factor * jnp.sin(angle)
    return jnp.stack([cos * y - sin * x + (size[0] - 1) / 2, sin * y + cos * x + (size[1] - 1) / 2])


def elastic_field(key: PRNGKeyArray, size: tuple[int, int], alpha, smoothing) -> Float[Array, "2 height width"]:
    """u: noise, smoothed along both axes."""
    noise = jax.random.uniform(key, (2, *size), minval=-1.0, maxval=1.0)
    return alpha * (smoothing[0] @ noise @ smoothing[1].T)


def gaussian(length: int, sigma: float) -> Float[Array, "length length"]:
    """The convolution with a Gaussian along an axis, as a matrix; beyond the border stands zero."""
    if not sigma > 0:
        raise ValueError(f"expected a positive sigma, got {sigma}")
    p = jnp.arange(length)
    reach = jnp.arange(-length, length + 1)
    total = jnp.sum(jnp.exp(-(reach**2) / (2 * sigma**2)))
    return jnp.exp(-((p[:, None] - p[None, :]) ** 2) / (2 * sigma**2)) / total


def grid(size: tuple[int, int]):
    """Row and column of every pixel."""
    return jnp.meshgrid(*(jnp.arange(length, dtype=jnp.float32) for length in size), indexing="ij")


def warp(image: Float[Array, "height width channels"], places: Float[Array, "2 height width"]) -> Array:
    """The image, read at `places`."""
    read = partial(map_coordinates, coordinates=list(places), order=1, mode="constant", cval=0.0)
    return jax.vmap(read, in_axes=-1, out_axes=-1)(image)
