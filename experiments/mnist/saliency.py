"""What a trained network looks at, and what it makes of an image on the way."""

from functools import partial

import jax
from jaxtyping import Array, Float, Int

import jaxbp


@partial(jax.jit, static_argnums=0)
def evidence(
    model: jaxbp.Layer, params: jaxbp.Params, images: Float[Array, "n h w 1"], labels: Int[Array, " n"]
) -> Float[Array, "n h w"]:
    """-∂J/∂x of the cross-entropy with the true label: where more ink (+) or less (-) speaks for that digit.

    The gradient that backpropagation throws away at the bottom of the network: the sweep returns it as it is.
    """
    logits, residuals = model.forward(params, images)
    loss = jaxbp.SoftmaxCrossEntropy()
    g = loss.backward(loss.forward(logits, labels)[1])
    dx, _ = jaxbp.sweep(model, params, residuals, g, visit=lambda site: ())
    return -dx[..., 0]


@partial(jax.jit, static_argnums=0)
def stages(model: jaxbp.Serial, params: jaxbp.Params, image: Float[Array, "h w 1"]) -> list[Array]:
    """The feature maps [h, w, channels] of one image after each relu that comes before the dense layers."""
    x, maps = image[None], []
    for layer, entry in zip(model.layers, params, strict=True):
        x, _ = layer.forward(entry, x)
        if isinstance(layer, jaxbp.ReLU) and x.ndim == 4:
            maps.append(x[0])
    return maps
