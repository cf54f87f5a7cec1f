"""The protocol of a loss: the weighted mean over examples of what each example costs.

Let l_n be the loss of example n, a sum over its outputs y_n, and w_n its weight (1 unless given). Then

    J = Σ_n w_n l_n / Σ_n w_n          ∂J/∂y_n = (w_n / Σ_m w_m) ∂l_n/∂y_n

So with equal weights 1/N stands here and nowhere else: the layers below only sum. An example that does not count
(padding, an ignored label) has weight zero.

Curvature (K-FAC, Gauss-Newton) asks for the Hessian H_n = ∂²l_n/∂y_n² too, as a product with a vector, and for a root
S_n of it, S_n S_nᵀ = H_n, which is what is sent backward.
"""

from dataclasses import dataclass
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxbp.core.layer import ArrayLike
from jaxbp.core.numerics import expand, is_concrete
from jaxbp.core.text import constructor_call, describe

Weights = ArrayLike  # one number per example, [n]


@dataclass(frozen=True)
class Loss:
    """A frozen dataclass of hyperparameters; a subclass gives `per_example` and its derivative.

    Shapes: outputs [n, ...], targets as the loss says, weights [n].
    """

    def per_example(self, outputs: Array, targets: Array) -> tuple[Array, PyTree]:
        """Returns the losses [n], or [n, ...] where an example has several labels, and the residuals."""
        raise NotImplementedError

    def scaled_gradient(self, residuals: PyTree, scale: Array) -> Array:
        """scale_n ∂l_n/∂y_n for every example, [n, ...], shaped like the outputs, with which scale broadcasts."""
        raise NotImplementedError

    def curvature(self, residuals: PyTree) -> Array:
        """∂²l/∂y², shaped like the outputs, of a loss that is a sum over outputs, each by itself: H is diagonal.

        A loss whose outputs interact gives `scaled_hessian` and `scaled_root` in its place.
        """
        raise NotImplementedError(f"{self} gives no curvature: define curvature(residuals)")

    def scaled_hessian(self, residuals: PyTree, scale: Array, v: Array) -> Array:
        """scale_n H_n v_n, for v shaped like the outputs."""
        return scale * self.curvature(residuals) * v

    def scaled_root(self, residuals: PyTree, scale: Array, v: Array) -> Array:
        """√scale_n S_n v_n, for v shaped like the outputs; S_n S_nᵀ = H_n."""
        return jnp.sqrt(scale * self.curvature(residuals)) * v

    def require(self, outputs: ArrayLike, targets: ArrayLike) -> None:
        """Refuses targets that do not fit the outputs; values are looked at outside jit only."""
        if outputs.shape != targets.shape:
            raise ValueError(
                f"{self}: expected targets shaped like the outputs {describe(outputs)}, got {describe(targets)}"
            )
        if is_concrete(targets) and not np.all(np.isfinite(np.asarray(targets, float))):
            raise ValueError(f"{self}: the targets {describe(targets)} are not all finite numbers")

    def counted(self, outputs: ArrayLike, targets: ArrayLike) -> Array:
        """1 for each loss that counts, 0 for the ignored; shaped like the losses of `per_example`."""
        return jnp.ones(outputs.shape[0], wide(outputs))

    def metrics(self, outputs: Array, targets: Array) -> dict[str, Array]:
        """What else is worth knowing, one number per loss, to be averaged as the loss is (accuracy)."""
        return {}

    def weigh(self, outputs: ArrayLike, targets: ArrayLike, weights: Weights | None = None) -> Array:
        """The weight of each loss, shaped like the losses of `per_example`."""
        counted = self.counted(outputs, targets)
        if weights is None:
            return counted
        weights = jnp.asarray(weights)
        if weights.shape != outputs.shape[:1]:
            raise ValueError(
                f"{self}: expected one weight for each of {outputs.shape[0]} examples, got {describe(weights)}"
            )
        return counted * expand(weights.astype(counted.dtype), counted.ndim)

    def forward(
        self,
        outputs: ArrayLike,
        targets: ArrayLike,
        weights: Weights | None = None,
        total: Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], PyTree]:
        """The weighted mean loss, and the residuals of `backward`.

        Args:
            outputs: what the model returned, [n, ...].
            targets: what it should have returned.
            weights: one number per example.
            total: what the weighted sum is divided by, the sum of weights unless given: that of the whole batch, where
                outputs are a part of it.
        """
        if not hasattr(outputs, "shape") or not jnp.issubdtype(outputs.dtype, jnp.floating):
            raise TypeError(f"{self}: expected an array of floating-point outputs, got {describe(outputs)}")
        if prod(outputs.shape) == 0 or outputs.ndim == 0:
            raise ValueError(f"{self}: expected at least one example, got outputs {describe(outputs)}: an empty batch?")
        targets = jax.tree.map(jnp.asarray, targets)
        self.require(outputs, targets)
        losses, residuals = self.per_example(outputs, targets)
        share = shares(self, self.weigh(outputs, targets, weights), total)
        costs = jnp.where(share == 0, 0, share * losses)  # what does not count may be infinite
        return jnp.sum(costs), (residuals, share, outputs[:0])

    def backward(self, residuals: PyTree) -> Float[Array, "n ..."]:
        """g = ∂J/∂outputs, the delta that the sweep begins with."""
        residuals, scale, no_outputs = residuals
        return self.scaled_gradient(residuals, expand(scale, no_outputs.ndim)).astype(no_outputs.dtype)

    def hessian(self, residuals: PyTree, v: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """(∂²J/∂outputs²) v."""
        residuals, scale, no_outputs = residuals
        return self.scaled_hessian(residuals, expand(scale, no_outputs.ndim), v).astype(no_outputs.dtype)

    def hessian_root(self, residuals: PyTree, v: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """S v with S Sᵀ = ∂²J/∂outputs²: with random v of E[v vᵀ] = 1 a draw from that covariance."""
        residuals, scale, no_outputs = residuals
        return self.scaled_root(residuals, expand(scale, no_outputs.ndim), v).astype(no_outputs.dtype)

    def empirical_root(self, residuals: PyTree) -> Float[Array, "n ..."]:
        """√(w_n / Σ_m w_m) ∂l_n/∂y_n: its outer products are the empirical Fisher's."""
        residuals, scale, no_outputs = residuals
        return self.scaled_gradient(residuals, jnp.sqrt(expand(scale, no_outputs.ndim))).astype(no_outputs.dtype)

    def __str__(self) -> str:
        return constructor_call(self)


def shares(loss: Loss, weights: Array, total: Array | None) -> Array:
    """Each loss's share of the mean, w / Σ w, or w / total where that is given."""
    total = jnp.sum(weights) if total is None else total
    if is_concrete(total) and not np.asarray(total) > 0:
        raise ValueError(f"{loss}: no example counts: the weights add up to {total}")
    return weights / jnp.where(
        total == 0, 1, total
    )  # under jit a batch of padding alone costs nothing, teaches nothing


def wide(x: ArrayLike):
    """The dtype in which a loss is added up: float32, or float64 for float64 outputs."""
    return jnp.promote_types(x.dtype, jnp.float32)


def sum_outputs(x: Array) -> Array:
    """Σ over all axes but the examples', [n, ...] to [n]."""
    return jnp.sum(x, range(1, x.ndim))
