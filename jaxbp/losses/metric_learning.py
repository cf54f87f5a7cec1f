"""Losses of embeddings that are told which belong together, example by example.

CosineEmbedding, of a pair x, x' and y = ±1 (together, apart). With unit vectors e = x / ‖x‖ and P = 1 - e eᵀ,

    l = 1 - e·e' for y = 1,  max(0, e·e' - m) for y = -1          ∂e/∂x = P / ‖x‖

    ∂l/∂x = -y P e' / ‖x‖          ∂l/∂x' = -y P' e / ‖x'‖        (within the margin 0)

But for a constant l is half the square of e - y e', so the `hessian` is that of Gauss-Newton, Jᵀ J (the true one is
indefinite): S v = Jᵀ v = (P v / ‖x‖, -y P' v / ‖x'‖), with v like x.

Triplet, of an anchor a, a positive p that belongs to it and a negative n that does not:

    l = max(0, ‖a - p‖² - ‖a - n‖² + m)

    ∂l/∂a = 2 (n - p)          ∂l/∂p = 2 (p - a)          ∂l/∂n = 2 (a - n)        (beyond the margin 0)

The first square is convex, the second enters with a minus. The `hessian` is that of the first alone:
S v = √2 (v, -v, 0), with v like a.

A vector of length zero has no direction; its gradient is 0. Residuals: units, inverse lengths, and y where l is not cut
off; p - a, a - n and where l is not cut off.

Sources: Hadsell et al., "Dimensionality reduction by learning an invariant mapping", CVPR 2006 (pairs); Schroff et al.,
FaceNet, arXiv 1503.03832, equation 3.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core.numerics import accumulation_dtype
from jaxbp.core.text import describe
from jaxbp.losses.example_loss import ExampleLoss, require_no_targets
from jaxbp.losses.hinge import require_signs


@dataclass(frozen=True)
class CosineEmbedding(ExampleLoss):
    """From a pair of embeddings [n, ..., d]; targets [n, ...] are 1 (together) and -1 (apart).

    Args:
        margin: m, the cosine up to which those apart cost nothing, from -1 to 1.
    """

    margin: float = 0.0
    takes = ("first", "second")

    def __post_init__(self):
        if not -1 <= self.margin <= 1:
            raise ValueError(f"CosineEmbedding needs a margin between -1 and 1, not {self.margin}")

    def require_targets(self, outputs, targets):
        require_vectors(self, outputs)
        if not hasattr(targets, "shape") or targets.shape != outputs[0].shape[:-1]:
            raise ValueError(
                f"{self}: for embeddings {describe(outputs)} expected targets {list(outputs[0].shape[:-1])}, "
                f"got {describe(targets)}"
            )
        require_signs(self, targets)

    def per_example(self, outputs, targets):
        (e, length), (f, other), y = *map(directions, outputs), targets.astype(accumulation_dtype(outputs[0]))
        cosine = jnp.sum(e * f, -1)
        counts = (y > 0) | (cosine > self.margin)
        losses = jnp.where(y > 0, 1 - cosine, jnp.maximum(cosine - self.margin, 0))
        return losses, (e, length, f, other, jnp.where(counts, y, 0)[..., None])

    def scaled_gradient(self, residuals, scale):
        e, length, f, other, y = residuals
        return -scale * y * along(e, length, f), -scale * y * along(f, other, e)

    def scaled_hessian(self, residuals, scale, v):
        e, length, f, other, y = residuals
        return self.scaled_root(residuals, scale, along(e, length, v[0]) - y * along(f, other, v[1]))

    def scaled_root(self, residuals, root, v):
        e, length, f, other, y = residuals
        return root * jnp.abs(y) * along(e, length, v), -root * y * along(f, other, v)

    def root_input(self, outputs):
        return outputs[0]

    def counted(self, outputs, targets):
        return jnp.ones(outputs[0].shape[:-1], accumulation_dtype(outputs[0]))


@dataclass(frozen=True)
class Triplet(ExampleLoss):
    """From embeddings (anchor, positive, negative) [n, ..., d], by squared distances; there are no targets: ().

    Args:
        margin: m > 0, by how much the negative must be farther.
    """

    margin: float = 1.0
    takes = ("anchor", "positive", "negative")

    def __post_init__(self):
        if not self.margin > 0:
            raise ValueError(f"Triplet needs a positive margin, not {self.margin}")

    def require_targets(self, outputs, targets):
        require_vectors(self, outputs)
        require_no_targets(self, targets)

    def per_example(self, outputs, targets):
        a, p, n = (x.astype(accumulation_dtype(x)) for x in outputs)
        losses = jnp.sum((a - p) ** 2 - (a - n) ** 2, -1) + self.margin
        return jnp.maximum(losses, 0), (p - a, a - n, (losses > 0).astype(a.dtype)[..., None])

    def scaled_gradient(self, residuals, scale):
        near, far, counts = residuals
        scale = 2 * scale * counts
        return -scale * (near + far), scale * near, scale * far

    def scaled_hessian(self, residuals, scale, v):
        return self.scaled_root(residuals, 2**0.5 * scale, v[0] - v[1])

    def scaled_root(self, residuals, root, v):
        counts = 2**0.5 * root * residuals[2]
        return counts * v, -counts * v, jnp.zeros_like(v)

    def root_input(self, outputs):
        return outputs[0]

    def counted(self, outputs, targets):
        return jnp.ones(outputs[0].shape[:-1], accumulation_dtype(outputs[0]))

    def metrics(self, outputs, targets):
        a, p, n = (x.astype(accumulation_dtype(x)) for x in outputs)
        return {"accuracy": (jnp.sum((a - p) ** 2 - (a - n) ** 2, -1) < 0).astype(a.dtype)}


def require_vectors(loss, outputs):
    """Refuses embeddings that are no vectors."""
    if len(outputs[0].shape) < 2:
        raise ValueError(f"{loss}: expected embeddings [n, ..., d], got {describe(outputs)}")


def directions(x):
    """e = x / ‖x‖ and 1 / ‖x‖, both 0 where x is."""
    x = x.astype(accumulation_dtype(x))
    squared = jnp.sum(x * x, -1, keepdims=True)
    inverse = jnp.where(squared > 0, jax.lax.rsqrt(jnp.where(squared > 0, squared, 1)), 0)
    return x * inverse, inverse


def along(e, inverse, v):
    """(∂e/∂x) v = (v - e (e·v)) / ‖x‖: a symmetric matrix."""
    return inverse * (v - e * jnp.sum(e * v, -1, keepdims=True))
