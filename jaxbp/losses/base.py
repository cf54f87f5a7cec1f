"""The protocol of a loss: the weighted mean over examples of what each example costs.

Let l_n be the loss of example n, a sum over its outputs y_n, and w_n its weight (1 unless given). Then

    J = Σ_n w_n l_n / W          ∂J/∂y_n = (w_n / W) ∂l_n/∂y_n          W = Σ_n w_n, or as the `Reduction` says

So with equal weights 1/N stands here and nowhere else: the layers below only sum. An example that does not count
(padding, an ignored label) has weight zero.

Curvature (K-FAC, Gauss-Newton) asks for the Hessian H_n = ∂²l_n/∂y_n² too, as a product with a vector, and for a root
S_n of it, S_n S_nᵀ = H_n, which is what is sent backward. A root asks for a Hessian without negative eigenvalues. Where
the true one may have some, a loss gives in its place the part of it that has none, and its docstring says which: for
l = φ(u(y)), ∂²l/∂y² = (∂u/∂y)ᵀ φ'' (∂u/∂y) + φ' ∂²u/∂y², it is the first term where φ is convex (Gauss-Newton), or
the second where u is and φ grows.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxbp.core.layer import ArrayLike
from jaxbp.core.numerics import accumulation_dtype, expand
from jaxbp.core.text import constructor_call, describe
from jaxbp.losses.reduction import Reduction, total_of

Weights = ArrayLike  # one number per example, [n], or per label; of SumOfLosses also a dict or tuple of these


class Measure(NamedTuple):
    """A weighted sum over a batch and its weight; those of several batches add up."""

    sum: Float[Array, ""]
    weight: Float[Array, ""]


@dataclass(frozen=True)
class Loss:
    """What outputs cost: a frozen dataclass of hyperparameters, over any trees of outputs and targets, examples first.

    A loss of one number an example is an `ExampleLoss`, of several outputs a `SumOfLosses`; another gives `forward`
    and `backward`, and as much of the rest as it is asked for.

    Args:
        reduction: what the weighted sum is divided by.
    """

    reduction: Reduction = field(default=Reduction.MEAN_OVER_WEIGHTS, kw_only=True)

    @property
    def mixes_examples(self) -> bool:
        """Whether what an example costs depends on the other examples of the batch (contrastive losses)."""
        return False

    def forward(
        self, outputs: PyTree, targets: PyTree, weights: PyTree = None, total: PyTree = None
    ) -> tuple[Float[Array, ""], PyTree]:
        """The loss, and the residuals of `backward`.

        Args:
            outputs: what the model returned, [n, ...].
            targets: what it should have returned.
            weights: one number per example, or per label where an example has several.
            total: what the weighted sum is divided by, as the reduction says unless given: `total` of the whole batch,
                where outputs are a part of it.
        """
        raise NotImplementedError(f"{self} has no forward")

    def backward(self, residuals: PyTree) -> PyTree:
        """g = ∂J/∂outputs, the delta that the sweep begins with; a tree like the outputs."""
        raise NotImplementedError(f"{self} has no backward")

    def hessian(self, residuals: PyTree, v: PyTree) -> PyTree:
        """(∂²J/∂outputs²) v for v like the outputs, or what the loss says stands for it."""
        raise NotImplementedError(f"{self} gives no curvature: define hessian and hessian_root")

    def hessian_root(self, residuals: PyTree, v: PyTree) -> PyTree:
        """S v with S Sᵀ = `hessian`, for v like `root_input`: with E[v vᵀ] = 1 a draw from that covariance."""
        raise NotImplementedError(f"{self} gives no curvature: define hessian and hessian_root")

    def root_input(self, outputs: PyTree) -> PyTree:
        """Arrays, or their shapes, that v of `hessian_root` is like: the outputs, unless S has other columns."""
        return outputs

    def empirical_root(self, residuals: PyTree) -> PyTree:
        """√(w_n / W) ∂l_n/∂y_n: its outer products are the empirical Fisher's."""
        raise NotImplementedError(f"{self} gives no empirical Fisher: define empirical_root")

    def require(self, outputs: PyTree, targets: PyTree) -> None:
        """Refuses outputs and targets that do not fit; outputs may be shapes, values are looked at outside jit only."""

    def counted(self, outputs: PyTree, targets: PyTree) -> Array:
        """1 for each example, or label, that counts, 0 for the ignored."""
        first = jax.tree.leaves(outputs)[0]
        return jnp.ones(first.shape[0], accumulation_dtype(first))

    def weigh(self, outputs: PyTree, targets: PyTree, weights: PyTree = None) -> PyTree:
        """The weight of each example or label, shaped like `counted`."""
        counted = self.counted(outputs, targets)
        if weights is None:
            return counted
        weights = jnp.asarray(weights)
        if weights.shape not in (counted.shape[:1], counted.shape):
            each = "" if counted.ndim == 1 else f", or for each label {list(counted.shape)}"
            raise ValueError(
                f"{self}: expected one weight for each of {counted.shape[0]} examples{each}, got {describe(weights)}"
            )
        return counted * expand(weights.astype(counted.dtype), counted.ndim)

    def total(self, outputs: PyTree, targets: PyTree, weights: PyTree = None) -> PyTree:
        """W, what the weighted sum is divided by; `forward` takes that of the whole batch for each of its parts.

        Weights whose mean can't be taken are refused; under jit W is then NaN, and so is the loss.
        """
        counted = self.counted(outputs, targets)
        return total_of(self, self.reduction.terms(self.weigh(outputs, targets, weights), counted))

    def weighted_sum(self, outputs: PyTree, targets: PyTree, weights: PyTree = None) -> Float[Array, ""]:
        """Σ w l."""
        return self.forward(outputs, targets, weights, jnp.ones(()))[0]

    def metrics(self, outputs: PyTree, targets: PyTree) -> dict[str, Array]:
        """What else is worth knowing, by name (accuracy), shaped like `counted`, to be averaged over weights."""
        return {}

    def measure(self, outputs: PyTree, targets: PyTree, weights: PyTree = None) -> dict[str, Measure]:
        """The loss, as "loss", and the metrics of a batch, to be added to those of others and given to `summary`."""
        weight = self.weigh(outputs, targets, weights)
        total = jnp.sum(self.reduction.terms(weight, self.counted(outputs, targets)))
        loss = self.weighted_sum(outputs, targets, weights)
        metrics = {name: jnp.sum(weight * m) for name, m in self.metrics(outputs, targets).items()}
        return {"loss": Measure(loss, total)} | {name: Measure(m, jnp.sum(weight)) for name, m in metrics.items()}

    def summary(self, measures: dict[str, Measure]) -> dict[str, Array]:
        """What the measures of all batches come to: the loss of all their examples as one batch, and mean metrics."""
        means = {name: total / total_of(self, weight) for name, (total, weight) in measures.items()}
        return means | ({"loss": measures["loss"].sum} if self.reduction is Reduction.SUM else {})

    def __str__(self) -> str:
        return constructor_call(self)


def require_independent_loss(loss: Loss) -> None:
    """Refuses a loss whose value for one example depends on others: nothing per example can be had of it."""
    if loss.mixes_examples:
        raise ValueError(
            f"{loss} mixes the examples of a batch (mixes_examples): what is asked for needs a loss that is a sum over "
            "examples"
        )
