"""Quantities taken at each layer by one reverse sweep. A new one is a visit, in a file of its own."""

from jaxbp.quantities.clipping import clipped_value_and_grad
from jaxbp.quantities.ghost_norms import per_example_layer_norms, per_example_norms
from jaxbp.quantities.gradient_statistics import (
    NoiseScale,
    gradient_second_moment,
    gradient_variance,
    noise_scale,
    signal_to_noise,
)
from jaxbp.quantities.per_example import per_example_gradients
from jaxbp.quantities.tangent_kernel import gram_matrix, tangent_kernel

__all__ = [
    "NoiseScale",
    "clipped_value_and_grad",
    "gradient_second_moment",
    "gradient_variance",
    "gram_matrix",
    "noise_scale",
    "per_example_gradients",
    "per_example_layer_norms",
    "per_example_norms",
    "signal_to_noise",
    "tangent_kernel",
]
