"""Models as plain functions that return a layer."""

from jaxbp.models.transformer import decoder_block, encoder_block
from jaxbp.models.vision import lenet, resnet

__all__ = [
    "decoder_block",
    "encoder_block",
    "lenet",
    "resnet",
]
