"""The base of losses that are a number for each example: the weighted sum, and what is sent backward.

    J = Σ_n r_n l_n        ∂J/∂y_n = r_n ∂l_n/∂y_n        H = diag_n(r_n H_n)        S = diag_n(√r_n S_n)

with the shares r_n = w_n / W. Where r_n is zero the outputs y_n, and the targets if their weight is, may be anything,
infinity and NaN included: outputs are replaced by zeros, targets by ones, before they are looked at, for 0 times
infinity is not 0.
"""

from dataclasses import dataclass
from math import prod
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxbp.core.layer import ArrayLike
from jaxbp.core.numerics import expand, is_concrete, is_floating
from jaxbp.core.text import describe
from jaxbp.losses.base import Loss, require_independent_loss


class Kept(NamedTuple):
    """What `ExampleLoss.forward` keeps.

    residuals: those of `per_example`.
    share: w / W of each loss.
    no_outputs: the outputs without their examples, for their rank and dtype.
    """

    residuals: PyTree
    share: Array
    no_outputs: PyTree

    @property
    def scale(self) -> Array:
        """The shares with axes behind, to multiply arrays like the outputs."""
        return expand(self.share, jax.tree.leaves(self.no_outputs)[0].ndim)

    def like_outputs(self, tree: PyTree) -> PyTree:
        """The tree in the dtype of the outputs."""
        return jax.tree.map(lambda a, y: a.astype(y.dtype), tree, self.no_outputs)


@dataclass(frozen=True)
class ExampleLoss(Loss):
    """A loss of one array of outputs [n, ...]: a number for each example, or for each label where it has several.

    A subclass gives `per_example` and its derivative, and what it can of the curvature.

    takes: the names of the arrays, all of one shape, that the outputs are a tuple of; none: they are one array.
    """

    takes: ClassVar[tuple[str, ...]] = ()

    def per_example(self, outputs: PyTree, targets: PyTree) -> tuple[Array, PyTree]:
        """Returns the losses [n], or [n, ...] where an example has several labels, and the residuals."""
        raise NotImplementedError(f"{self} has no per_example")

    def per_counted_example(self, outputs: PyTree, targets: PyTree, counts: Array) -> tuple[Array, PyTree]:
        """The same, where some do not count: those see outputs of zero."""
        return self.per_example(fill(~counts, outputs, 0), targets)

    def scaled_gradient(self, residuals: PyTree, scale: ArrayLike) -> PyTree:
        """scale_n ∂l_n/∂y_n for every example, like the outputs, with which scale broadcasts."""
        raise NotImplementedError(f"{self} has no gradient: define scaled_gradient(residuals, scale)")

    def curvature(self, residuals: PyTree) -> PyTree:
        """∂²l/∂y² ≥ 0, like the outputs, of a loss that is a sum over outputs, each by itself: H is diagonal.

        A loss whose outputs interact gives `scaled_hessian` and `scaled_root` in its place.
        """
        raise NotImplementedError(f"{self} gives no curvature: define curvature(residuals)")

    def scaled_hessian(self, residuals: PyTree, scale: ArrayLike, v: PyTree) -> PyTree:
        """scale_n H_n v_n, for v like the outputs."""
        return jax.tree.map(lambda h, v: scale * h * v, self.curvature(residuals), v)

    def scaled_root(self, residuals: PyTree, root: ArrayLike, v: PyTree) -> PyTree:
        """√scale_n S_n v_n, for v like `root_input`; S_n S_nᵀ = H_n. What comes in is √scale."""
        return jax.tree.map(lambda h, v: root * jnp.sqrt(h) * v, self.curvature(residuals), v)

    def require_targets(self, outputs: PyTree, targets: PyTree) -> None:
        """Refuses targets that do not fit outputs which do."""
        if not hasattr(targets, "shape") or outputs.shape != targets.shape:
            raise ValueError(
                f"{self}: expected targets shaped like the outputs {describe(outputs)}, got {describe(targets)}"
            )
        if is_concrete(targets) and not np.all(np.isfinite(np.asarray(targets, float))):
            raise ValueError(f"{self}: the targets {describe(targets)} are not all finite numbers")

    def require(self, outputs, targets):
        arrays = outputs if self.takes and isinstance(outputs, tuple) else (outputs,)
        arrays_only = all(hasattr(a, "shape") and is_floating(a) for a in arrays)
        if len(arrays) != max(1, len(self.takes)) or not arrays_only:
            wanted = f"arrays ({', '.join(self.takes)})" if self.takes else "an array"
            remedy = "; use SumOfLosses for several outputs, or let the model end with Select(...) to pick one"
            raise TypeError(
                f"{self}: expected {wanted} of floating-point outputs, got {describe(outputs)}"
                f"{'' if hasattr(outputs, 'shape') else remedy}"
            )
        if prod(arrays[0].shape) == 0 or arrays[0].ndim == 0:
            raise ValueError(f"{self}: expected at least one example, got outputs {describe(outputs)}: an empty batch?")
        if any(a.shape != arrays[0].shape for a in arrays):
            raise ValueError(f"{self}: expected {', '.join(self.takes)} of one shape, got {describe(outputs)}")
        self.require_targets(outputs, targets)

    def shares(self, outputs: PyTree, targets: PyTree, weights: PyTree = None, total: PyTree = None) -> Array:
        """Each loss's share of the sum, w / W."""
        weight = self.weigh(outputs, targets, weights)
        total = self.total(outputs, targets, weights) if total is None else jnp.asarray(total, weight.dtype)
        if is_concrete(total) and not np.asarray(total) > 0:
            raise ValueError(f"{self}: expected a positive total to divide by, got {total}")
        # Under jit a batch of padding alone costs nothing and teaches nothing.
        return weight / jnp.where(total == 0, 1, total)

    def forward(self, outputs, targets, weights=None, total=None):
        if weights is not None:
            targets = fill(jnp.asarray(weights) == 0, targets, 1)  # 1 is a target of every loss
        self.require(outputs, targets)
        outputs, targets = jax.tree.map(jnp.asarray, (outputs, targets))
        share = self.shares(outputs, targets, weights, total)
        losses, residuals = self.per_counted_example(outputs, targets, share != 0)
        costs = jnp.where(share == 0, 0, share * losses)  # targets that do not count may still make them infinite
        return jnp.sum(costs), Kept(residuals, share, jax.tree.map(lambda y: y[:0], outputs))

    def backward(self, residuals):
        return residuals.like_outputs(self.scaled_gradient(residuals.residuals, residuals.scale))

    def hessian(self, residuals, v):
        return residuals.like_outputs(self.scaled_hessian(residuals.residuals, residuals.scale, v))

    def hessian_root(self, residuals, v):
        return residuals.like_outputs(self.scaled_root(residuals.residuals, self._root(residuals.scale), v))

    def empirical_root(self, residuals):
        require_independent_loss(self)
        return residuals.like_outputs(self.scaled_gradient(residuals.residuals, self._root(residuals.scale)))

    def _root(self, scale: Array) -> Array:
        """√(w / W); under jit NaN, where outside it is refused."""
        if is_concrete(scale) and np.any(np.asarray(scale) < 0):
            raise ValueError(f"{self}: a negative weight gives a Hessian that has no root; give weights >= 0")
        return jnp.sqrt(scale)


def fill(absent: Array, tree: PyTree, value: int) -> PyTree:
    """`value` in place of what does not count, [n] or [n, ...], in floating-point arrays that have such axes."""

    def one(array):
        if not hasattr(array, "shape") or not is_floating(array) or array.shape[: absent.ndim] != absent.shape:
            return array
        return jnp.where(expand(absent, array.ndim), value, array)

    return jax.tree.map(one, tree)


def sum_outputs(x: Array) -> Array:
    """Σ over all axes but the examples', [n, ...] to [n]."""
    return jnp.sum(x, range(1, x.ndim))


def require_no_targets(loss: Loss, targets: PyTree) -> None:
    """Refuses targets where the outputs say all."""
    if jax.tree.leaves(targets):
        raise ValueError(f"{loss}: expected no targets, (), got {describe(targets)}")
