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
from jaxbp.layers.attention import Attention, Heads, PlainAttention
from jaxbp.layers.batch_normalization import BatchNorm
from jaxbp.layers.bidirectional import Bidirectional
from jaxbp.layers.convolution import Conv, ConvTranspose
from jaxbp.layers.dense import Dense
from jaxbp.layers.dropout import Dropout, SpatialDropout
from jaxbp.layers.embedding import Embedding, TiedEmbedding
from jaxbp.layers.gru import GRU
from jaxbp.layers.language_model import EncoderDecoder, LanguageModel
from jaxbp.layers.lstm import LSTM
from jaxbp.layers.multi_head import MultiHeadAttention
from jaxbp.layers.normalization import GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from jaxbp.layers.over_time import MaxOverTime, MeanOverTime, ZeroPadding
from jaxbp.layers.pooling import AdaptiveAvgPool, AvgPool, GlobalAvgPool, MaxPool
from jaxbp.layers.positions import LearnedPositions, SinusoidalPositions
from jaxbp.layers.recurrence import initial_states
from jaxbp.layers.reshape import Concatenate, Flatten, Identity, Reshape, Sum
from jaxbp.layers.rnn import RNN
from jaxbp.layers.sequences import Context, OnValues, Sequences, Values
from jaxbp.layers.sublayer import Own, Sublayer

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool",
    "Attention",
    "AvgPool",
    "BatchNorm",
    "Bidirectional",
    "Concatenate",
    "Context",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Dropout",
    "Elu",
    "Embedding",
    "EncoderDecoder",
    "Flatten",
    "Gelu",
    "GlobalAvgPool",
    "GroupNorm",
    "Heads",
    "Identity",
    "InstanceNorm",
    "LanguageModel",
    "LayerNorm",
    "LeakyRelu",
    "LearnedPositions",
    "LogSoftmax",
    "MaxOverTime",
    "MaxPool",
    "MeanOverTime",
    "MultiHeadAttention",
    "OnValues",
    "Own",
    "PlainAttention",
    "RMSNorm",
    "Relu",
    "Reshape",
    "Sequences",
    "Sigmoid",
    "Silu",
    "SinusoidalPositions",
    "Softmax",
    "Softplus",
    "SpatialDropout",
    "Sublayer",
    "Sum",
    "Tanh",
    "TiedEmbedding",
    "Values",
    "ZeroPadding",
    "initial_states",
]
