"""The layers, one file a family."""

from jaxbp.layers.activation import ELU, GELU, LeakyReLU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh
from jaxbp.layers.attention.dot_product import Attention, Heads, PlainAttention
from jaxbp.layers.attention.multi_head import MultiHeadAttention
from jaxbp.layers.attention.positions import LearnedPositions, SinusoidalPositions
from jaxbp.layers.attention.sublayer import DropMemory, Sublayer
from jaxbp.layers.attention.tied_models import EncoderDecoder, LanguageModel
from jaxbp.layers.batch_norm import BatchNorm
from jaxbp.layers.dense import Dense
from jaxbp.layers.dropout import Dropout, SpatialDropout
from jaxbp.layers.embedding import Embedding, TiedEmbedding
from jaxbp.layers.normalization import GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from jaxbp.layers.recurrent.bidirectional import Bidirectional
from jaxbp.layers.recurrent.bptt import initial_states
from jaxbp.layers.recurrent.gru import GRU
from jaxbp.layers.recurrent.lstm import LSTM
from jaxbp.layers.recurrent.rnn import RNN
from jaxbp.layers.recurrent.sequence_pooling import MaxOverTime, MeanOverTime, ZeroPadding
from jaxbp.layers.reshape import Concatenate, Flatten, Identity, Reshape, Sum
from jaxbp.layers.sequences import Context, DropLengths, MapValues, Sequences
from jaxbp.layers.spatial.convolution import Conv, ConvTranspose
from jaxbp.layers.spatial.pooling import AdaptiveAvgPool, AvgPool, GlobalAvgPool, MaxPool

__all__ = [
    "ELU",
    "GELU",
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
    "DropLengths",
    "DropMemory",
    "Dropout",
    "Embedding",
    "EncoderDecoder",
    "Flatten",
    "GlobalAvgPool",
    "GroupNorm",
    "Heads",
    "Identity",
    "InstanceNorm",
    "LanguageModel",
    "LayerNorm",
    "LeakyReLU",
    "LearnedPositions",
    "LogSoftmax",
    "MapValues",
    "MaxOverTime",
    "MaxPool",
    "MeanOverTime",
    "MultiHeadAttention",
    "PlainAttention",
    "RMSNorm",
    "ReLU",
    "Reshape",
    "Sequences",
    "SiLU",
    "Sigmoid",
    "SinusoidalPositions",
    "Softmax",
    "Softplus",
    "SpatialDropout",
    "Sublayer",
    "Sum",
    "Tanh",
    "TiedEmbedding",
    "ZeroPadding",
    "initial_states",
]
