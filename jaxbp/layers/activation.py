"""Activations: y = f(z), element by element, and the softmax, which couples the outputs of one example.

With g = ∂J/∂y an elementwise activation sends back ∂J/∂z = g f'(z), the ⊙ f'(z) of the textbook. Each keeps one
array, the cheapest from which f' follows:

    Sigmoid     σ(z) = 1 / (1 + e^-z)       f' = y (1 - y)                      keeps y
    Tanh        tanh z                      f' = 1 - y²                         keeps y
    ReLU        max(z, 0)                   f' = [y > 0]                        keeps y
    LeakyReLU   z, below zero s z           f' = 1, below zero s                keeps y (s > 0 keeps the sign)
    ELU         z, below zero α (e^z - 1)   f' = 1, below zero y + α            keeps y
    Softplus    log(1 + e^z)                f' = σ(z) = 1 - e^-y                keeps y
    SiLU        z σ(z)                      f' = σ(z) + y (1 - σ(z))            keeps f'
    GELU        z Φ(z)                      f' = Φ(z) + z φ(z)                  keeps f'
    Softcap     c tanh(z / c)               f' = 1 - (y / c)²                   keeps y

y is the next layer's input as well, so keeping it costs nothing. SiLU and GELU are not monotonic, so y does not
determine z; f' is of z's size and spares the backward its exponentials. At a kink f' is the left one, as in `jax.nn`
(LeakyReLU: the right one).

Softmax, y_k = e^{z_k} / Σ_j e^{z_j}. From ∂y_k/∂z_i = y_k ([i = k] - y_i):

    ∂J/∂z_i = Σ_k g_k y_k ([i = k] - y_i) = y_i (g_i - Σ_k g_k y_k)

LogSoftmax, y_k = z_k - log Σ_j e^{z_j}. From ∂y_k/∂z_i = [i = k] - e^{y_i}:

    ∂J/∂z_i = g_i - e^{y_i} Σ_k g_k

Sources: Rumelhart et al. (1986) sigmoid; LeCun et al. (1998) tanh; Nair & Hinton (2010) relu; Maas et al. (2013) leaky
relu; Clevert et al., arXiv 1511.07289 elu; Dugas et al. (2001) softplus; Hendrycks & Gimpel, arXiv 1606.08415 gelu;
Elfwing et al., arXiv 1702.03118 silu; Gemma Team, arXiv 2408.00118, section 2 softcap; Bridle (1990) softmax.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbp.core.axes import feature_axis
from jaxbp.core.errors import require_floating
from jaxbp.core.layer import Layer


@dataclass(frozen=True)
class Sigmoid(Layer):
    """The logistic function, onto (0, 1)."""

    position_wise = True

    def forward(self, params, x: Array, rng=None):
        require_floating(self, x)
        y = jax.nn.sigmoid(x)
        return y, y

    def input_gradient(self, params, y, g: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return g * y * (1 - y)


@dataclass(frozen=True)
class Tanh(Layer):
    """The hyperbolic tangent, onto (-1, 1)."""

    position_wise = True

    def forward(self, params, x: Array, rng=None):
        require_floating(self, x)
        y = jnp.tanh(x)
        return y, y

    def input_gradient(self, params, y, g: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return g * (1 + y) * (1 - y)  # 1 - y² would cancel where y is near ±1


@dataclass(frozen=True)
class ReLU(Layer):
    """The positive part."""

    position_wise = True

    def forward(self, params, x: Array, rng=None):
        require_floating(self, x)
        y = jax.nn.relu(x)
        return y, y

    def input_gradient(self, params, y, g: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.where(y > 0, g, 0)


@dataclass(frozen=True)
class LeakyReLU(Layer):
    """The identity above zero, a line of slope `slope` > 0 below."""

    position_wise = True

    slope: float = 0.01

    def __post_init__(self):
        if not self.slope > 0:
            raise ValueError(f"LeakyReLU needs a positive slope, not {self.slope}; slope 0 is ReLU()")

    def forward(self, params, x: Array, rng=None):
        require_floating(self, x)
        y = jax.nn.leaky_relu(x, self.slope)
        return y, y

    def input_gradient(self, params, y, g: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.where(y >= 0, g, self.slope * g)


@dataclass(frozen=True)
class ELU(Layer):
    """The identity above zero, an exponential down to -`alpha` < 0 below."""

    position_wise = True

    alpha: float = 1.0

    def __post_init__(self):
        if not self.alpha > 0:
            raise ValueError(f"ELU needs a positive alpha, not {self.alpha}")

    def forward(self, params, x: Array, rng=None):
        require_floating(self, x)
        y = jax.nn.elu(x, self.alpha)
        return y, y

    def input_gradient(self, params, y, g: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.where(y > 0, g, (y + self.alpha) * g)


@dataclass(frozen=True)
class Softplus(Layer):
    """A smooth relu, onto (0, ∞)."""

    position_wise = True

    def forward(self, params, x: Array, rng=None):
        require_floating(self, x)
        y = jax.nn.softplus(x)
        return y, y

    def input_gradient(self, params, y, g: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return g * -jnp.expm1(-y)  # 1 - e^-y would round to 0 where y is small


@dataclass(frozen=True)
class SiLU(Layer):
    """x σ(x), also called swish."""

    position_wise = True

    def forward(self, params, x: Array, rng=None):
        require_floating(self, x)
        gate = jax.nn.sigmoid(x)
        y = x * gate
        return y, gate + y * (1 - gate)

    def input_gradient(self, params, slope, g: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return g * slope


@dataclass(frozen=True)
class GELU(Layer):
    """x Φ(x) with the normal distribution's Φ and density φ; exact, or with Φ ≈ (1 + tanh u) / 2.

    Args:
        approximate: take u = √(2/π) (x + 0.044715 x³) instead of the error function. By the chain rule
            d/dx (1 + tanh u) / 2 = (1 - tanh² u) / 2 · u'(x) then stands for φ(x).
    """

    position_wise = True

    approximate: bool = False

    def forward(self, params, x: Array, rng=None):
        require_floating(self, x)
        if self.approximate:
            z = jnp.clip(
                x, -10, 10
            )  # beyond, tanh u is ±1 in any dtype, and 0 · x² would be no number where x² overflows
            tanh = jnp.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))
            cdf = (1 + tanh) / 2
            density = (1 - tanh * tanh) / 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z * z)
        else:
            cdf = jax.scipy.special.erfc(x * -math.sqrt(0.5)) / 2  # erf + 1 would cancel far below zero
            density = jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        return x * cdf, cdf + x * density

    def input_gradient(self, params, slope, g: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return g * slope


@dataclass(frozen=True)
class Softcap(Layer):
    """The identity near zero, onto (-`cap`, `cap`): keeps logits from growing without bound."""

    position_wise = True

    cap: float

    def __post_init__(self):
        if not 0 < self.cap < math.inf:
            raise ValueError(f"Softcap needs a positive, finite cap, not {self.cap}")

    def forward(self, params, x: Array, rng=None):
        require_floating(self, x)
        y = self.cap * jnp.tanh(x / self.cap)
        return y, y

    def input_gradient(self, params, y, g: Float[Array, "*n"]) -> Float[Array, "*n"]:
        tanh = y / self.cap
        return g * (1 + tanh) * (1 - tanh)


@dataclass(frozen=True)
class Softmax(Layer):
    """Probabilities over `axis`, counted from the end: -1 is the last axis."""

    axis: int = -1

    def forward(self, params, x: Array, rng=None):
        require_floating(self, x)
        y = jax.nn.softmax(x, feature_axis(self, self.axis, x))
        return y, y

    def input_gradient(self, params, y, g: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return y * (g - jnp.sum(g * y, self.axis, keepdims=True))


@dataclass(frozen=True)
class LogSoftmax(Layer):
    """Log-probabilities over `axis`, counted from the end: -1 is the last axis."""

    axis: int = -1

    def forward(self, params, x: Array, rng=None):
        require_floating(self, x)
        y = jax.nn.log_softmax(x, feature_axis(self, self.axis, x))
        return y, y

    def input_gradient(self, params, y, g: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return g - jnp.exp(y) * jnp.sum(g, self.axis, keepdims=True)
