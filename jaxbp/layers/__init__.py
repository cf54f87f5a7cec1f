"""The layers, one file a family."""

from jaxbp.layers.activation import (
    Elu,
    Gelu,
    LeakyRelu,
    LogSoftmax,
    Relu,
    Sigmoid,
    Silu,
    Softmax,
    Softplus,
    Tanh,
)
from jaxbp.layers.convolution import Conv, ConvTranspose
from jaxbp.layers.dense import Dense
from jaxbp.layers.dropout import Dropout, SpatialDropout
from jaxbp.layers.normalization import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from jaxbp.layers.pooling import AdaptiveAvgPool, AvgPool, GlobalAvgPool, MaxPool
from jaxbp.layers.reshape import Concatenate, Flatten, Identity, Reshape, Sum

__all__ = [
    "AdaptiveAvgPool",
    "AvgPool",
    "BatchNorm",
    "Concatenate",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Dropout",
    "Elu",
    "Flatten",
    "Gelu",
    "GlobalAvgPool",
    "GroupNorm",
    "Identity",
    "InstanceNorm",
    "LayerNorm",
    "LeakyRelu",
    "LogSoftmax",
    "MaxPool",
    "RMSNorm",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Silu",
    "Softmax",
    "Softplus",
    "SpatialDropout",
    "Sum",
    "Tanh",
]
