"""The layers, one file a family."""

from jaxbp.layers.activation import (
    ELU,
    GELU,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softcap,
    Softmax,
    Softplus,
    Tanh,
)
from jaxbp.layers.attention.dot_product import Attention, Heads, PlainAttention
from jaxbp.layers.attention.heads import JoinHeads, SplitHeads
from jaxbp.layers.attention.multi_head import MultiHeadAttention
from jaxbp.layers.attention.positions import LearnedPositions, RotaryPositions, SinusoidalPositions
from jaxbp.layers.attention.sublayer import DropMemory, Sublayer
from jaxbp.layers.attention.tied_models import EncoderDecoder, LanguageModel
from jaxbp.layers.batch_norm import BatchNorm
from jaxbp.layers.branches import Add, Concatenate, Multiply, Select, Split, WeightedSum
from jaxbp.layers.dense import Dense
from jaxbp.layers.dropout import Dropout, SpatialDropout
from jaxbp.layers.embedding import Embedding, TiedEmbedding
from jaxbp.layers.gated import GLU, GeGLU, ReGLU, SwiGLU
from jaxbp.layers.gaussian_sample import GaussianSample
from jaxbp.layers.normalization import GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from jaxbp.layers.recurrent.base import initial_states
from jaxbp.layers.recurrent.bidirectional import Bidirectional
from jaxbp.layers.recurrent.gru import GRU
from jaxbp.layers.recurrent.lstm import LSTM
from jaxbp.layers.recurrent.rnn import RNN
from jaxbp.layers.recurrent.sequence_pooling import MaxOverTime, MeanOverTime, ZeroPadding
from jaxbp.layers.reshape import Flatten, Identity, Reshape, Transpose
from jaxbp.layers.scale import PReLU, Scale
from jaxbp.layers.sequences import Context, DropLengths, MapValues, Sequences
from jaxbp.layers.spatial.convolution import Conv, ConvTranspose
from jaxbp.layers.spatial.pooling import AdaptiveAvgPool, AvgPool, GlobalAvgPool, MaxPool
from jaxbp.layers.stop_gradient import StopGradient

__all__ = [
    "ELU",
    "GELU",
    "GLU",
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool",
    "Add",
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
    "GaussianSample",
    "GeGLU",
    "GlobalAvgPool",
    "GroupNorm",
    "Heads",
    "Identity",
    "InstanceNorm",
    "JoinHeads",
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
    "Multiply",
    "PReLU",
    "PlainAttention",
    "RMSNorm",
    "ReGLU",
    "ReLU",
    "Reshape",
    "RotaryPositions",
    "Scale",
    "Select",
    "Sequences",
    "SiLU",
    "Sigmoid",
    "SinusoidalPositions",
    "Softcap",
    "Softmax",
    "Softplus",
    "SpatialDropout",
    "Split",
    "SplitHeads",
    "StopGradient",
    "Sublayer",
    "SwiGLU",
    "Tanh",
    "TiedEmbedding",
    "Transpose",
    "WeightedSum",
    "ZeroPadding",
    "initial_states",
]
