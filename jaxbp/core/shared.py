"""A layer that is used several times: its parameters exist once, and it is visited once, with all its uses.

Let u run over the uses y_u = f(x_u; θ) of one layer, with deltas g_u. The parameters have a part in each, so

    ∂J/∂θ = Σ_u (∂y_u/∂θ)ᵀ g_u               and in factors      ∂J/∂W = Σ_u Σ_t a_u[t]ᵀ g_u[t]

which is one sum over the positions of all uses side by side. So everything that is made of these two (per-example
norms, Kronecker factors, feedback) is exact for siamese networks and tied weights too, cross terms and all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxbp.core.layer import Layer
from jaxbp.core.paths import part


class Uses(tuple):
    """One entry for each use of a layer, in forward order; a pytree."""

    __slots__ = ()


jax.tree_util.register_pytree_node(Uses, lambda uses: (tuple(uses), None), lambda _, entries: Uses(entries))


@dataclass(frozen=True)
class Shared(Layer):
    """The layer at all its uses: residuals and deltas are `Uses`."""

    layer: Layer

    @property
    def mixes_examples(self):
        return self.layer.mixes_examples

    @property
    def statistics(self):
        return self.layer.statistics

    def param_gradient(self, params, residuals: Uses, g: Uses):
        gradients = [self.layer.param_gradient(params, *use) for use in zip(residuals, g, strict=True)]
        return jax.tree.map(lambda *terms: sum(terms[1:], terms[0]), *gradients)

    def affine(self, params, residuals: Uses, g: Uses):
        pairs = [self.layer.affine(params, *use) for use in zip(residuals, g, strict=True)]
        if any(pair is None for pair in pairs):
            return None
        a, g = zip(*pairs, strict=True)
        return jnp.concatenate(a, 1), jnp.concatenate(g, 1)

    def __str__(self):
        return str(self.layer)


def uses_of(entry: PyTree) -> tuple:
    """The entries of all uses; of a layer that is used once, this one."""
    return tuple(entry) if isinstance(entry, Uses) else (entry,)


def together(layer: Layer, kept: Sequence[PyTree]) -> PyTree:
    """What a sweep kept at several uses of a layer, as one tree: at each leaf (residuals, g), each as `Uses`."""
    if layer.children:
        return layer.collect(
            {name: together(child, [part(tree, name) for tree in kept]) for name, child in layer.children.items()}
        )
    residuals, deltas = ([use for at in kept for use in uses_of(at[i])] for i in (0, 1))
    return Uses(residuals), Uses(deltas)
