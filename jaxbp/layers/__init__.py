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
from jaxbp.layers.dense import Dense
from jaxbp.layers.dropout import Dropout
from jaxbp.layers.reshape import Concatenate, Flatten, Identity, Reshape, Sum

__all__ = [
    "Concatenate",
    "Dense",
    "Dropout",
    "Elu",
    "Flatten",
    "Gelu",
    "Identity",
    "LeakyRelu",
    "LogSoftmax",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Silu",
    "Softmax",
    "Softplus",
    "Sum",
    "Tanh",
]
