"""Direct feedback: the delta at a layer is a random projection of the error at the output.

Source: Nøkland, arXiv 1609.01596.
"""

from dataclasses import dataclass
from math import prod

import jax
import jax.numpy as jnp

from jaxbp.core.numerics import is_floating
from jaxbp.credit.rules import DeltaRule


@dataclass(frozen=True)
class DirectFeedback(DeltaRule):
    """δ = e B at the output y of the layer, past all layers above. Give it the paths of the nonlinearities.

    B [outputs, y's size] is uniform between ± 1 / √(y's size); of trees, the numbers of an example count together.
    """

    def init(self, key, outputs, y):
        sizes = [sum(prod(a.shape[1:]) for a in jax.tree.leaves(tree) if is_floating(a)) for tree in (outputs, y)]
        dtype = next(a.dtype for a in jax.tree.leaves(y) if is_floating(a))
        return jax.random.uniform(key, sizes, dtype, -1, 1) / sizes[1] ** 0.5

    def delta(self, kept, context):
        e = jnp.concatenate([a.reshape(len(a), -1) for a in jax.tree.leaves(context.e)], 1)
        d, parts = e @ kept, []
        arrays, structure = jax.tree.flatten(context.y)
        for y in arrays:
            size = prod(y.shape[1:]) if is_floating(y) else 0
            parts.append(d[:, :size].reshape(y.shape).astype(y.dtype) if size else None)
            d = d[:, size:]
        return structure.unflatten(parts), ()
