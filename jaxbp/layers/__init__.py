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
from jaxbp.layers.batch_normalization import BatchNorm
from jaxbp.layers.bidirectional import Bidirectional
from jaxbp.layers.convolution import Conv, ConvTranspose
from jaxbp.layers.dense import Dense
from jaxbp.layers.dropout import Dropout, SpatialDropout
from jaxbp.layers.gru import GRU
from jaxbp.layers.lstm import LSTM
from jaxbp.layers.normalization import GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from jaxbp.layers.pooling import AdaptiveAvgPool, AvgPool, GlobalAvgPool, MaxPool
from jaxbp.layers.recurrence import initial_states
from jaxbp.layers.reshape import Concatenate, Flatten, Identity, Reshape, Sum
from jaxbp.layers.rnn import RNN
from jaxbp.layers.sequences import OnValues, Sequences, Values

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool",
    "AvgPool",
    "BatchNorm",
    "Bidirectional",
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
    "OnValues",
    "RMSNorm",
    "Relu",
    "Reshape",
    "Sequences",
    "Sigmoid",
    "Silu",
    "Softmax",
    "Softplus",
    "SpatialDropout",
    "Sum",
    "Tanh",
    "Values",
    "initial_states",
]
