"""jaxbp: neural networks in JAX, trained by backpropagation written out by hand, each gradient proved against jax.grad.

model = jaxbp.Serial(jaxbp.Dense(128), jaxbp.Relu(), jaxbp.Dense(10))
params = model.init(jax.random.key(0), x)
value, grads = jaxbp.value_and_grad(model, jaxbp.SoftmaxCrossEntropy())(params, x, labels)
"""

from jaxbp.backprop import Quantity, value_and_grad, value_and_quantities
from jaxbp.check import check_gradients
from jaxbp.compose import Parallel, Recompute, Repeat, Residual, Serial
from jaxbp.credit import (
    BatchSigns,
    DirectFeedback,
    FeedbackAlignment,
    FixedSigns,
    KolenPollack,
    LocalLoss,
    UniformSigns,
    WeightMirror,
    mirror_weights,
)
from jaxbp.diverged import Diverged
from jaxbp.feedback import (
    Angles,
    Arrived,
    DeltaRule,
    WeightRule,
    alignment_angles,
    feedback_value_and_grad,
    init_feedback,
)
from jaxbp.figures import plot_flow
from jaxbp.initializers import Glorot, He, LeCun
from jaxbp.inspect import layer_sizes, summary, trace
from jaxbp.interop import FromAutodiff, as_custom_vjp
from jaxbp.kfac import KfacState, kfac
from jaxbp.laws import check_layer
from jaxbp.layer import Layer, LayerError, Site
from jaxbp.layers import (
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
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
    Relu,
    Reshape,
    RMSNorm,
    Sigmoid,
    Silu,
    Softmax,
    Softplus,
    SpatialDropout,
    Sum,
    Tanh,
)
from jaxbp.loop import evaluate, fit, train_epoch
from jaxbp.losses import BinaryCrossEntropy, HalfSquaredError, Huber, Loss, MeanSquaredError, SoftmaxCrossEntropy
from jaxbp.models import lenet, resnet
from jaxbp.quantities.clipping import clipped_value_and_grad
from jaxbp.quantities.columns import Empirical, Exact, MonteCarlo
from jaxbp.quantities.curvature import as_flat, as_scipy, ggn_diagonal, ggn_operator, hessian_operator
from jaxbp.quantities.ekfac import Eigen, ekfac, kronecker_eigenbasis, precondition
from jaxbp.quantities.ghost_norms import gradient_norms, layer_gradient_norms
from jaxbp.quantities.kernels import gram_matrix, tangent_kernel
from jaxbp.quantities.kronecker import Factors, damped_inverse, kfac_expand, kfac_reduce, kronecker_factors
from jaxbp.quantities.moments import (
    NoiseScale,
    gradient_second_moment,
    gradient_variance,
    noise_scale,
    signal_to_noise,
)
from jaxbp.quantities.per_example import individual_gradients
from jaxbp.reverse import Composite, delta, keep, leaves, param_gradient, revisit, sweep
from jaxbp.train import TrainState, make_train_step

__version__ = "0.1.0"

__all__ = [
    "AdaptiveAvgPool",
    "Angles",
    "Arrived",
    "AvgPool",
    "BatchNorm",
    "BatchSigns",
    "BinaryCrossEntropy",
    "Composite",
    "Concatenate",
    "Conv",
    "ConvTranspose",
    "DeltaRule",
    "Dense",
    "DirectFeedback",
    "Diverged",
    "Dropout",
    "Eigen",
    "Elu",
    "Empirical",
    "Exact",
    "Factors",
    "FeedbackAlignment",
    "FixedSigns",
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
    "KfacState",
    "KolenPollack",
    "Layer",
    "LayerError",
    "LayerNorm",
    "LeCun",
    "LeakyRelu",
    "LocalLoss",
    "LogSoftmax",
    "Loss",
    "MaxPool",
    "MeanSquaredError",
    "MonteCarlo",
    "NoiseScale",
    "Parallel",
    "Quantity",
    "RMSNorm",
    "Recompute",
    "Relu",
    "Repeat",
    "Reshape",
    "Residual",
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
    "UniformSigns",
    "WeightMirror",
    "WeightRule",
    "alignment_angles",
    "as_custom_vjp",
    "as_flat",
    "as_scipy",
    "check_gradients",
    "check_layer",
    "clipped_value_and_grad",
    "damped_inverse",
    "delta",
    "ekfac",
    "evaluate",
    "feedback_value_and_grad",
    "fit",
    "ggn_diagonal",
    "ggn_operator",
    "gradient_norms",
    "gradient_second_moment",
    "gradient_variance",
    "gram_matrix",
    "hessian_operator",
    "individual_gradients",
    "init_feedback",
    "keep",
    "kfac",
    "kfac_expand",
    "kfac_reduce",
    "kronecker_eigenbasis",
    "kronecker_factors",
    "layer_gradient_norms",
    "layer_sizes",
    "leaves",
    "lenet",
    "make_train_step",
    "mirror_weights",
    "noise_scale",
    "param_gradient",
    "plot_flow",
    "precondition",
    "resnet",
    "revisit",
    "signal_to_noise",
    "summary",
    "sweep",
    "tangent_kernel",
    "trace",
    "train_epoch",
    "value_and_grad",
    "value_and_quantities",
]
