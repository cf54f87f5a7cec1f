"""jaxbp: neural networks in JAX, trained by backpropagation written out by hand, each gradient proved against jax.grad.

model = jaxbp.Serial(jaxbp.Dense(128), jaxbp.ReLU(), jaxbp.Dense(10))
params = model.init(jax.random.key(0), x)
value, grads = jaxbp.value_and_grad(model, jaxbp.SoftmaxCrossEntropy())(params, x, labels)

Every public name is here, and in the namespace of its kind: `jaxbp.layers`, `.losses`, `.quantities`, `.curvature`,
`.credit`, `.training`, `.inspection`, `.verification`, `.decoding`, `.models`.
"""

from jaxbp import (
    backprop,
    combinators,
    core,
    credit,
    curvature,
    decoding,
    initializers,
    inspection,
    interop,
    layers,
    losses,
    models,
    quantities,
    training,
    verification,
)
from jaxbp.backprop import *
from jaxbp.combinators import *
from jaxbp.core import *
from jaxbp.credit import *
from jaxbp.curvature import *
from jaxbp.decoding import *
from jaxbp.initializers import *
from jaxbp.inspection import *
from jaxbp.interop import *
from jaxbp.layers import *
from jaxbp.losses import *
from jaxbp.models import *
from jaxbp.quantities import *
from jaxbp.training import *
from jaxbp.verification import *

__version__ = "0.1.0"

_NAMESPACES = (
    *(core, initializers, interop, combinators, layers, losses, backprop, quantities, curvature, credit),
    *(training, inspection, verification, decoding, models),
)
__all__ = sorted(name for namespace in _NAMESPACES for name in namespace.__all__)
