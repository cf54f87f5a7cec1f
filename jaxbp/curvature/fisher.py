"""The Gauss-Newton matrix as a sum over vectors sent backward.

Let J_f be the Jacobian of the outputs y_n in the parameters, and H = ∂²J/∂y² = S Sᵀ the Hessian of the loss:

    GGN = Σ_n J_f[n]ᵀ H_n J_f[n] = Σ_c (J_fᵀ s_c)(J_fᵀ s_c)ᵀ, example by example, with s_c the columns of S

J_fᵀ s is one reverse sweep with s in place of ∂J/∂y. For likelihoods (squared error, cross-entropies) the GGN is the
Fisher information. Which vectors are sent:

    Exact         the columns of S, one sweep for each output (for some losses S has fewer)
    MonteCarlo    S v with random signs v: the same in expectation, one sweep a sample
    Empirical     the gradients of the examples' losses themselves; not the GGN, but cheap and common

Outputs may be a tree; a column is then a tree like them. Each example's part of a column is taken for its own, so the
loss must not mix examples.

Sources: Schraudolph, Neural Computation 14 (2002); Martens, arXiv 1412.1193; Kunstner et al., arXiv 1905.12558 (on the
empirical Fisher).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from math import prod

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PRNGKeyArray, PyTree

from jaxbp.backprop import Run
from jaxbp.core.sweep import Visit
from jaxbp.losses.base import Loss, require_independent_loss

Columns = tuple[int, Callable[[Array | int], PyTree]]  # how many, and the i-th, a tree like the outputs


@dataclass(frozen=True)
class Exact:
    """One column for each output."""

    def columns(self, loss: Loss, kept: PyTree, y: PyTree, key: PRNGKeyArray | None) -> Columns:
        require_independent_loss(loss)
        arrays, structure = jax.tree.flatten(loss.root_input(y))
        counts = [prod(a.shape[1:]) for a in arrays]

        def column(i):
            units = [
                jnp.broadcast_to(jax.nn.one_hot(i - first, count, dtype=a.dtype).reshape(1, *a.shape[1:]), a.shape)
                for a, count, first in zip(arrays, counts, accumulate(counts, initial=0), strict=False)
            ]
            return loss.hessian_root(kept, structure.unflatten(units))

        return sum(counts), column


@dataclass(frozen=True)
class MonteCarlo:
    """Random columns, drawn from `key`.

    Args:
        samples: how many.
    """

    samples: int = 1

    def __post_init__(self):
        if self.samples < 1:
            raise ValueError(f"MonteCarlo needs at least one sample, not {self.samples}")

    def columns(self, loss: Loss, kept: PyTree, y: PyTree, key: PRNGKeyArray | None) -> Columns:
        require_independent_loss(loss)
        if key is None:
            raise ValueError("MonteCarlo draws at random: give key, a fresh jax.random.key")
        arrays, structure = jax.tree.flatten(loss.root_input(y))

        def column(i):
            keys = jax.random.split(jax.random.fold_in(key, i), len(arrays))
            signs = [jax.random.rademacher(k, a.shape, a.dtype) for k, a in zip(keys, arrays, strict=True)]
            return loss.hessian_root(kept, structure.unflatten([v / self.samples**0.5 for v in signs]))

        return self.samples, column


@dataclass(frozen=True)
class Empirical:
    """The gradients of the examples' own losses."""

    def columns(self, loss: Loss, kept: PyTree, y: PyTree, key: PRNGKeyArray | None) -> Columns:
        require_independent_loss(loss)
        return 1, lambda i: loss.empirical_root(kept)


Fisher = Exact | MonteCarlo | Empirical


def sum_over_columns(forward: Run, columns: Columns, visit: Visit) -> PyTree:
    """Σ_c of what the visits say when column c is sent backward."""
    count, column = columns
    return sum_over(count, lambda i: forward.sweep(visit, column(i))[1])


def sum_over(count: int, one: Callable[[Array | int], PyTree]) -> PyTree:
    """Σ_i one(i) as a scan that begins at zero: `one` is compiled once."""
    if count == 1:
        return one(0)
    zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(one, 0))
    return lax.scan(lambda total, i: (jax.tree.map(jnp.add, total, one(i)), None), zero, jnp.arange(count))[0]
