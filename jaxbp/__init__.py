"""jaxbp: neural networks in JAX, trained by backpropagation written out by hand, each gradient proved against jax.grad.

model = jaxbp.Serial(jaxbp.Dense(128), jaxbp.Relu(), jaxbp.Dense(10))
params = model.init(jax.random.key(0), x)
value, grads = jaxbp.value_and_grad(model, jaxbp.SoftmaxCrossEntropy())(params, x, labels)
"""

from jaxbp.backprop import Quantity, value_and_grad, value_and_quantities
from jaxbp.check import check_gradients
from jaxbp.compose import Parallel, Recompute, Repeat, Residual, Serial
from jaxbp.decoding import Decoded, beam_decode, greedy_decode
from jaxbp.diverged import Diverged
from jaxbp.figures import plot_flow
from jaxbp.initializers import Glorot, He, LeCun, Orthogonal
from jaxbp.inspect import layer_sizes, summary, trace
from jaxbp.interop import FromAutodiff, as_custom_vjp
from jaxbp.laws import check_layer
from jaxbp.layer import Layer, LayerError, Site
from jaxbp.layers import (
    GRU,
    LSTM,
    RNN,
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Bidirectional,
    Concatenate,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Elu,
    Flatten,
    Gelu,
    GlobalAvgPool,
    GroupNorm,
    Identity,
    InstanceNorm,
    LayerNorm,
    LeakyRelu,
    LogSoftmax,
    MaxPool,
    OnValues,
    Relu,
    Reshape,
    RMSNorm,
    Sequences,
    Sigmoid,
    Silu,
    Softmax,
    Softplus,
    SpatialDropout,
    Sum,
    Tanh,
    Values,
    initial_states,
)
from jaxbp.loop import evaluate, fit, train_epoch
from jaxbp.losses import (
    CTC,
    BinaryCrossEntropy,
    HalfSquaredError,
    Huber,
    Loss,
    MeanSquaredError,
    SoftmaxCrossEntropy,
    Transcripts,
)
from jaxbp.models import lenet, resnet
from jaxbp.reverse import Composite, delta, keep, leaves, param_gradient, revisit, sweep
from jaxbp.train import TrainState, make_train_step
from jaxbp.truncated import truncated_value_and_grad

__version__ = "0.1.0"

__all__ = [
    "CTC",
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool",
    "AvgPool",
    "BatchNorm",
    "Bidirectional",
    "BinaryCrossEntropy",
    "Composite",
    "Concatenate",
    "Conv",
    "ConvTranspose",
    "Decoded",
    "Dense",
    "Diverged",
    "Dropout",
    "Elu",
    "Flatten",
    "FromAutodiff",
    "Gelu",
    "GlobalAvgPool",
    "Glorot",
    "GroupNorm",
    "HalfSquaredError",
    "He",
    "Huber",
    "Identity",
    "InstanceNorm",
    "Layer",
    "LayerError",
    "LayerNorm",
    "LeCun",
    "LeakyRelu",
    "LogSoftmax",
    "Loss",
    "MaxPool",
    "MeanSquaredError",
    "OnValues",
    "Orthogonal",
    "Parallel",
    "Quantity",
    "RMSNorm",
    "Recompute",
    "Relu",
    "Repeat",
    "Reshape",
    "Residual",
    "Sequences",
    "Serial",
    "Sigmoid",
    "Silu",
    "Site",
    "Softmax",
    "SoftmaxCrossEntropy",
    "Softplus",
    "SpatialDropout",
    "Sum",
    "Tanh",
    "TrainState",
    "Transcripts",
    "Values",
    "as_custom_vjp",
    "beam_decode",
    "check_gradients",
    "check_layer",
    "delta",
    "evaluate",
    "fit",
    "greedy_decode",
    "initial_states",
    "keep",
    "layer_sizes",
    "leaves",
    "lenet",
    "make_train_step",
    "param_gradient",
    "plot_flow",
    "resnet",
    "revisit",
    "summary",
    "sweep",
    "trace",
    "train_epoch",
    "truncated_value_and_grad",
    "value_and_grad",
    "value_and_quantities",
]
